//! Many clients at once.

use std::sync::Barrier;
use std::thread;

use postgres::Client;

/// Runs `work` in `count` threads with a connection each, and returns what they return, in order.
///
/// `connect` is given the number of the client, from 0. No client begins before all are
/// connected. A panic in one is the panic of all, after the others have ended.
#[track_caller]
pub fn clients<T: Send>(
    count: usize,
    connect: impl Fn(usize) -> Client + Sync,
    work: impl Fn(usize, &mut Client) -> T + Sync,
) -> Vec<T> {
    // Connected here, since a client that fails to would leave the others at the barrier.
    let connections: Vec<Client> = (0..count).map(connect).collect();
    let start = Barrier::new(count);
    let (start, work) = (&start, &work);
    thread::scope(|scope| {
        let threads: Vec<_> = connections
            .into_iter()
            .enumerate()
            .map(|(number, mut client)| {
                scope.spawn(move || {
                    start.wait();
                    work(number, &mut client)
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

/// The SQLSTATE of an error, or an empty string where the error is not the server's.
#[must_use]
pub fn sqlstate(error: &postgres::Error) -> &str {
    error.code().map_or("", |code| code.code())
}
