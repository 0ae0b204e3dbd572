//! Other ways to count calls of one key in the same Postgres, against `reserve_ai_usage()`.
//!
//! They have it easier: they count one or two keys, where ours is judged by six limits and writes a
//! hold.

use std::cell::RefCell;
use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::measure::{Side, alternate};
use crate::peer::{Driver, installed};
use crate::report::{Line, Reach};
use crate::rows::writes::{Counted, Expected, ensure_written, reserve_script};
use crate::schema::{count, run};
use crate::stage::Stage;

const CLIENTS: u32 = 8;

/// A counter row for the user and one for everybody, each only as long as there is room.
const UPSERT: &str = "
    CREATE SCHEMA peer;
    CREATE TABLE peer.counter (key text PRIMARY KEY, used_microusd bigint NOT NULL);
    CREATE FUNCTION peer.charge(of_user text, microusd bigint, amount_microusd bigint)
    RETURNS boolean LANGUAGE plpgsql AS $$
    DECLARE
        key_of_counter text;
    BEGIN
        FOREACH key_of_counter IN ARRAY ARRAY[of_user, 'everybody'] LOOP
            INSERT INTO peer.counter AS c VALUES (key_of_counter, microusd)
            ON CONFLICT (key) DO UPDATE SET used_microusd = c.used_microusd + excluded.used_microusd
                WHERE c.used_microusd + excluded.used_microusd <= amount_microusd;
            IF NOT FOUND THEN
                RAISE EXCEPTION 'no room in %', key_of_counter;
            END IF;
        END LOOP;
        RETURN true;
    END
    $$";
const MICROUSD: u64 = 660;

/// A library of another language.
struct Library {
    name: &'static str,
    interpreter: Option<PathBuf>,
    script: &'static str,
    /// Calls that were admitted, as the server knows it once the connections are closed.
    booked: &'static str,
    processes: u32,
}

pub fn peers(stage: &Stage) -> Result<Vec<Line>> {
    let plan = stage.plan();
    let database = stage.database(0)?;
    let mut client = database.connect();
    run(&mut client, UPSERT)?;

    let ours = Counted::new(stage, &database, CLIENTS, &reserve_script(plan, 1))?;
    let charge = format!("SELECT peer.charge('user', {MICROUSD}, 1000000000000000);\n");
    let upsert = Counted::new(stage, &database, CLIENTS, &charge)?;
    let mut running = Vec::new();
    let mut sides = vec![ours.rate(plan)?, upsert.rate(plan)?];
    let mut names = vec!["an upsert of two counter rows in PL/pgSQL, 8 clients"];
    let mut absent = Vec::new();
    for library in libraries(stage) {
        match &library.interpreter {
            None => absent.push(Line::absent("peers", library.name, "not measured: not installed")),
            Some(interpreter) => {
                let processes = library.processes;
                let mut driver =
                    Driver::start(stage, &database, interpreter, library.script, processes)?;
                driver.run(plan.warm_up)?;
                names.push(library.name);
                running.push((library, RefCell::new(driver)));
            }
        }
    }
    for (_, driver) in &running {
        let side: Side = Box::new(|| driver.borrow_mut().run(plan.time));
        sides.push(side);
    }
    let rounds = alternate(plan.rounds, sides)?;

    ensure_written(&database, &Expected { holds: ours.ran(), charges: 0 })?;
    let charged = "SELECT used_microusd FROM peer.counter WHERE key = 'everybody'";
    let charged = count(&mut client, charged)? / MICROUSD;
    ensure!(charged == upsert.ran(), "{} upserts counted {charged}", upsert.ran());
    for (library, driver) in running {
        let admitted = driver.into_inner().finish()?;
        let booked = count(&mut client, library.booked)?;
        ensure!(booked == admitted, "{}: {admitted} admitted, {booked} counted", library.name);
    }

    let measured = ("`reserve_ai_usage()`, 8 clients on one user", 0);
    let line = |(number, name): (usize, &&str)| {
        let against = (*name, number + 1);
        Line::of_rounds("peers", measured, against, &rounds, "/s", Reach::AtLeast(3.0))
    };
    Ok(names.iter().enumerate().map(line).chain(absent).collect())
}

fn libraries(stage: &Stage) -> [Library; 2] {
    [
        Library {
            name: "npm `rate-limiter-flexible`, 8 connections",
            interpreter: installed("node/node_modules/rate-limiter-flexible")
                .map(|_| "node".into()),
            script: "rate_limiter_flexible.cjs",
            booked: "SELECT sum(points)::bigint FROM flexible",
            processes: stage.cores().min(CLIENTS),
        },
        Library {
            name: "PyPI `pyrate-limiter`, 8 connections",
            interpreter: installed("python/bin/python"),
            script: "pyrate.py",
            // Its rows are gone after a second.
            booked: "SELECT n_tup_ins FROM pg_stat_user_tables WHERE relname = 'ratelimit___bench'",
            processes: CLIENTS,
        },
    ]
}
