//! The steps of the writers and of the worker.

use super::{Lacks, Ledger, Recorded, State, Transaction, Worker, Writer};

const WORKER: usize = usize::MAX;

impl Ledger {
    pub(super) fn stamp(&self, state: &State) -> u8 {
        if self.lacks == Lacks::StampThatNeverGoesBack {
            return state.clock;
        }
        state.clock.max(state.last_stamp + 1)
    }

    pub(super) fn write(&self, state: &mut State, id: usize) -> Option<()> {
        let writer = self.writers[id];
        let mut transaction = state.writers[id];
        let stamp_first = self.lacks == Lacks::XidBeforeStamp;
        let wanted = if let Writer::Rows(rows) = writer { rows } else { 1 };
        if transaction.rows == wanted {
            self.commit(state, id);
            return Some(());
        }
        if transaction.xid.is_none() && !(stamp_first && transaction.stamp.is_none()) {
            transaction.xid = Some(state.next_xid);
            state.next_xid += 1;
        } else if writer == Writer::GivenTime {
            if self.lacks != Lacks::GivenTimesResetWatermark {
                if state.locked_by.is_some() {
                    return None;
                }
                state.locked_by = Some(id);
            }
            state.rows.push(Recorded { by: id, stamp: 0, committed: false });
            transaction.rows += 1;
        } else {
            let apart = stamp_first || self.lacks == Lacks::StampAtOnce;
            let stamp = transaction.stamp.take().unwrap_or_else(|| self.stamp(state));
            if apart && state.writers[id].stamp.is_none() {
                transaction.stamp = Some(stamp);
            } else {
                state.rows.push(Recorded { by: id, stamp, committed: false });
                transaction.rows += 1;
            }
            let split = self.lacks == Lacks::StampAtOnce && transaction.stamp.is_some();
            if !split {
                state.last_stamp = stamp;
            }
        }
        state.writers[id] = transaction;
        state.rows.sort();
        Some(())
    }

    pub(super) fn commit(&self, state: &mut State, id: usize) {
        for row in state.rows.iter_mut().filter(|row| row.by == id) {
            row.committed = true;
        }
        if state.locked_by == Some(id) {
            (state.rollup, state.watermark) = (0, 0);
            state.version += 1;
        }
        self.end(state, id);
    }

    pub(super) fn end(&self, state: &mut State, id: usize) {
        state.locked_by.take_if(|by| *by == id);
        state.rows.retain(|row| row.by != id || row.committed);
        let xid = state.writers[id].xid;
        state.latest_completed = state.latest_completed.max(xid.unwrap_or(0));
        state.writers[id] = Transaction { ended: true, ..Transaction::default() };
    }

    /// The oldest xid that is still running, as `pg_snapshot_xmin` says.
    pub(super) fn xmin(state: &State) -> u8 {
        let running = state.writers.iter().filter_map(|transaction| transaction.xid);
        running.chain(state.worker_xid).min().unwrap_or(state.next_xid)
    }

    pub(super) fn work(&self, state: &mut State) -> Option<()> {
        let x_first = self.lacks == Lacks::WBeforeX;
        match state.worker.at {
            0 | 1 if (state.worker.at == 0) != x_first => {
                state.worker.w = self.stamp(state);
                state.last_stamp = state.worker.w;
                state.worker.version = state.version;
            }
            0 | 1 if self.lacks == Lacks::XOfItsOwn => state.worker.x = state.latest_completed + 1,
            0 | 1 => {
                state.worker.x = state.next_xid;
                state.worker_xid = Some(state.next_xid);
                state.next_xid += 1;
            }
            2 => {
                let xid = state.worker_xid.take();
                state.latest_completed = state.latest_completed.max(xid.unwrap_or(0));
            }
            3 => {
                if Self::xmin(state) < state.worker.x && self.lacks != Lacks::Wait {
                    return None;
                }
            }
            4 => {
                if state.locked_by.is_some() {
                    return None;
                }
                if state.version != state.worker.version
                    && self.lacks != Lacks::GivenTimesResetWatermark
                {
                    state.worker = Worker { rounds: state.worker.rounds, ..Worker::default() };
                    return Some(());
                }
                state.locked_by = Some(WORKER);
                let sealed = state.watermark..state.worker.w;
                let rows = state.rows.iter();
                let rows = rows.filter(|row| row.committed && sealed.contains(&row.stamp));
                state.worker.sum = u8::try_from(rows.count()).expect("few rows");
            }
            5 if self.lacks == Lacks::SealAtOnce => state.rollup += state.worker.sum,
            _ => {
                if self.lacks != Lacks::SealAtOnce {
                    state.rollup += state.worker.sum;
                }
                state.watermark = state.worker.w;
                state.locked_by = None;
                state.worker = Worker { rounds: state.worker.rounds + 1, ..Worker::default() };
                return Some(());
            }
        }
        state.worker.at += 1;
        Some(())
    }

    /// The server dies: what was open is gone, and so is shared memory.
    pub(super) fn crash(&self, state: &mut State) {
        for id in 0..self.writers.len() {
            if !state.writers[id].ended {
                self.end(state, id);
            }
        }
        state.worker = Worker { rounds: state.worker.rounds, ..Worker::default() };
        (state.worker_xid, state.locked_by) = (None, None);
        state.last_stamp = match self.lacks {
            Lacks::StampFromWatermarkAfterRestart => 0,
            _ => state.watermark,
        };
        // The clients come back with new transactions.
        state.writers = vec![Transaction::default(); self.writers.len()];
    }
}
