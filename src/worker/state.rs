//! What launcher and rounds know of each database, in shared memory: what is due when, who is at it,
//! what went wrong last. Guarded by [`Lock::Workers`], held for an instant. It begins empty with the
//! server and after a crash: then everything is due.

use super::duties::DUTIES;
use crate::pg::shmem::{Lock, Region};
use ai_limiter_domain::window::MINUTE;

/// How many databases of `ai_limiter.databases` are served.
pub const MAX_DATABASES: usize = 64;

/// A text in shared memory, cut to what fits.
#[derive(Clone, Copy)]
pub struct Text<const N: usize>([u8; N]);

impl<const N: usize> Text<N> {
    fn new(text: &str) -> Self {
        let mut new = Self([0; N]);
        new.set(text);
        new
    }

    pub fn set(&mut self, text: &str) {
        let length = text.floor_char_boundary(N - 1);
        self.0 = [0; N];
        self.0[..length].copy_from_slice(&text.as_bytes()[..length]);
    }

    pub fn get(&self) -> String {
        let length = self.0.iter().position(|&b| b == 0).unwrap_or(N);
        String::from_utf8_lossy(&self.0[..length]).into_owned()
    }

    fn is(&self, text: &str) -> bool {
        self.0 == Self::new(text).0
    }
}

/// One database. All zero is one of which nothing is known; instants are as Postgres counts them, and
/// 0 is never.
#[derive(Clone, Copy)]
pub struct Entry {
    pub name: Text<64>,
    /// Tells a database from an earlier one of the same name.
    pub oid: u32,
    /// The process of the round that is under way; 0 between rounds.
    pub pid: i32,
    /// When the next round begins.
    pub due_at: i64,
    /// When each duty is due again.
    pub duty_due_at: [i64; DUTIES.len()],
    /// Rounds that came to their end.
    pub rounds: i64,
    pub started_at: i64,
    pub finished_at: i64,
    pub error: Text<256>,
    pub error_at: i64,
    /// When the error was last written to the server's log, which need not hear it every second.
    pub error_logged_at: i64,
}

/// Plain data: all zero is the beginning.
pub struct Workers {
    /// 0 while there is none.
    launcher: i32,
    count: usize,
    entries: [Entry; MAX_DATABASES],
}

// SAFETY: zeroed memory is a `Workers`; used under `Lock::Workers` only.
pub static WORKERS: Region<Workers> = unsafe { Region::zeroed(c"ai_limiter workers") };

/// Works on the state, if the library was preloaded. `work` must not raise.
fn with<R>(work: impl FnOnce(&mut Workers) -> R) -> Option<R> {
    WORKERS.exclusive(Lock::Workers, work)
}

impl Workers {
    fn entries(&mut self) -> &mut [Entry] {
        &mut self.entries[..self.count]
    }

    fn remove(&mut self, index: usize) {
        self.count -= 1;
        self.entries[index] = self.entries[self.count];
    }
}

/// Sets the launcher's process, 0 when it ends.
pub fn set_launcher(pid: i32) {
    with(|workers| workers.launcher = pid);
}

pub fn has_launcher() -> bool {
    with(|workers| workers.launcher != 0).unwrap_or(false)
}

/// Whether the library was preloaded, so that there can be a worker.
pub fn exists() -> bool {
    WORKERS.get().is_some()
}

/// Has an entry for each of `names`, as far as there is room, and for nothing else but rounds that are
/// under way.
pub fn keep(names: &[String]) {
    with(|workers| {
        for index in (0..workers.count).rev() {
            let entry = &workers.entries[index];
            if entry.pid == 0 && !names.iter().any(|name| entry.name.is(name)) {
                workers.remove(index);
            }
        }
        for name in names {
            if workers.count < MAX_DATABASES && !workers.entries().iter().any(|e| e.name.is(name)) {
                workers.entries[workers.count] = Entry::named(Text::new(name));
                workers.count += 1;
            }
        }
    });
}

impl Entry {
    fn named(name: Text<64>) -> Self {
        Self {
            name,
            oid: 0,
            pid: 0,
            due_at: 0,
            duty_due_at: [0; DUTIES.len()],
            rounds: 0,
            started_at: 0,
            finished_at: 0,
            error: Text([0; 256]),
            error_at: 0,
            error_logged_at: 0,
        }
    }
}

/// The databases as they are now.
pub fn all() -> Vec<Entry> {
    // Room beforehand: nothing is allocated under the lock.
    let mut entries = Vec::with_capacity(MAX_DATABASES);
    with(|workers| entries.extend_from_slice(workers.entries()));
    entries
}

pub fn of(name: &str) -> Option<Entry> {
    update(name, |entry| *entry)
}

/// Changes a database's entry, if it has one. `change` must not raise.
pub fn update<R>(name: &str, change: impl FnOnce(&mut Entry) -> R) -> Option<R> {
    with(|workers| workers.entries().iter_mut().find(|e| e.name.is(name)).map(change)).flatten()
}

/// Claims a database's round for a process; `None` when another has it, or none is wanted.
pub fn claim(name: &str, pid: i32, now: i64) -> Option<Entry> {
    update(name, |entry| {
        (entry.pid == 0).then(|| {
            (entry.pid, entry.started_at) = (pid, now);
            *entry
        })
    })
    .flatten()
}

/// The process has no round any more.
pub fn release(pid: i32) {
    with(|workers| {
        for entry in workers.entries().iter_mut().filter(|entry| entry.pid == pid) {
            entry.pid = 0;
        }
    });
}

/// Forgets what was known of another database that had this name.
pub fn meet(name: &str, oid: u32) -> Option<Entry> {
    update(name, |entry| {
        if entry.oid != oid {
            let Entry { pid, due_at, started_at, .. } = *entry;
            *entry = Entry { oid, pid, due_at, started_at, ..Entry::named(entry.name) };
        }
        *entry
    })
}

/// Notes what went wrong. True when the server's log should hear it: not again within a minute.
pub fn note_error(name: &str, error: &str, now: i64) -> bool {
    update(name, |entry| {
        let known = entry.error.is(error) && now - entry.error_logged_at < MINUTE;
        entry.error.set(error);
        entry.error_at = now;
        if !known {
            entry.error_logged_at = now;
        }
        !known
    })
    .unwrap_or(true)
}
