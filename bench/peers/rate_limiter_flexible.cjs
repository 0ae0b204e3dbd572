// Drives npm rate-limiter-flexible with its Postgres store: all calls for one key, without a pause.
// How it is spoken to: see bench/src/peer.rs.

const readline = require('node:readline')
const { Pool } = require('pg')
const { RateLimiterPostgres } = require('rate-limiter-flexible')

const connections = Number(process.env.CONNECTIONS)
// Where the server is stands in PGHOST and the like.
const pool = new Pool({ max: connections })

const limiter = new RateLimiterPostgres(
  { storeClient: pool, storeType: 'pool', tableName: 'flexible', keyPrefix: 'bench',
    points: 2_000_000_000, duration: 86_400, clearExpiredByTimeout: false },
  (error) => {
    if (error) throw error
    console.log('ready')
    readline.createInterface({ input: process.stdin })
      .on('line', (line) => measure(Number(line)))
      .on('close', () => pool.end())
  })

async function measure (seconds) {
  const begun = performance.now()
  const end = begun + seconds * 1000
  let calls = 0
  async function client () {
    while (performance.now() < end) {
      await limiter.consume('user', 1)
      calls++
    }
  }
  await Promise.all(Array.from({ length: connections }, client))
  console.log(calls, (performance.now() - begun) / 1000)
}
