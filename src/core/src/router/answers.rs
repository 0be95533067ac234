//! The rest of a request's story: what its answer changes in the ledger and the index, up to its end.

use super::{Router, index_repair};
use crate::account::ledger::Ledger;
use crate::account::ticket::{End, Repair, Ticket};
use crate::shared::pod_table::PodTable;
use crate::shared::store::{Contended, SharedData};
use crate::{Micros, Slot};

impl Router {
    /// The first byte of an answer's body has come. If that cannot be written, the request still waits in the
    /// ledger, and its end takes it out from there.
    ///
    /// # Errors
    /// [`Contended`]: nothing has changed.
    pub fn start(
        &mut self,
        ticket: &mut Ticket,
        shared: &mut impl SharedData,
        now: Micros,
    ) -> Result<(), Contended> {
        if !ticket.started() {
            let prefill = self.change(shared, |ledger| ticket.start(ledger, now))?;
            ticket.set_started(prefill);
            self.tenants.release(ticket, shared);
        }
        Ok(())
    }

    /// Envoy has failed over: the first `attempts` pods of the decision failed, and the pod in the slot `to`
    /// answers; `None` when the pod that answers is not in the table. That pod holds the prompt now, and the
    /// first one does not.
    ///
    /// # Errors
    /// [`Contended`]: nothing has changed, and the request is still booked on the first pod.
    pub fn failed_over(
        &mut self,
        ticket: &mut Ticket,
        attempts: usize,
        to: Option<Slot>,
        shared: &mut impl SharedData,
        now: Micros,
    ) -> Result<(), Contended> {
        let Router { store, steps, .. } = self;
        let to = to.and_then(|slot| steps.replica.table().key(slot));
        let moves = to != Some(ticket.pod());
        let (_, (opened, retracted)) = store.transact(shared, |ledger, shared| {
            steps.synchronize(ledger, shared);
            ticket.fail(ledger, steps.replica.table(), attempts, to, now);
            let opened = ticket.move_to(ledger, steps.replica.table(), to, now);
            let retracted = if moves {
                index_repair::write(&mut steps.replica, ledger, ticket, Repair::Retract)
            } else {
                None
            };
            if let Some(to) = to.filter(|_| moves) {
                index_repair::write_prompt(&mut steps.replica, ledger, to, ticket.hashes());
            }
            Ok::<_, Contended>((opened, retracted))
        })?;
        if moves {
            index_repair::apply(&mut steps.replica, ticket, retracted);
            ticket.set_pod(to, attempts, opened.probes, now);
            index_repair::hold(&mut steps.replica, &mut steps.found, ticket, opened.ahead);
        } else {
            ticket.set_pod(to, attempts, opened.probes, now);
        }
        Ok(())
    }

    /// The last of the `attempts` pods that were asked says that it takes no more requests at the moment, and
    /// the others before it will have said so, too: nothing is held against them. Before
    /// [`failed_over`](Self::failed_over).
    ///
    /// # Errors
    /// [`Contended`]: nothing has changed.
    pub fn refused_as_full(
        &mut self,
        ticket: &Ticket,
        attempts: usize,
        shared: &mut impl SharedData,
        now: Micros,
    ) -> Result<(), Contended> {
        self.change_any(shared, |ledger, table| ticket.refused_as_full(ledger, table, attempts, now))
    }

    /// The first `attempts` pods of the decision failed, and none answers.
    ///
    /// # Errors
    /// [`Contended`]: nothing has changed.
    pub fn unanswered(
        &mut self,
        ticket: &Ticket,
        attempts: usize,
        shared: &mut impl SharedData,
        now: Micros,
    ) -> Result<(), Contended> {
        self.change_any(shared, |ledger, table| ticket.fail(ledger, table, attempts, None, now))
    }

    /// The pod that the request is booked on failed it: said 503, or broke its answer off.
    ///
    /// # Errors
    /// [`Contended`]: nothing has changed.
    pub fn failed_upstream(
        &mut self,
        ticket: &Ticket,
        shared: &mut impl SharedData,
        now: Micros,
    ) -> Result<(), Contended> {
        self.change(shared, |ledger| ticket.fail_own_pod(ledger, now))
    }

    /// The request has ended: closes its account, and learns from what the answer reported.
    ///
    /// # Errors
    /// [`Contended`]: nothing has changed, and the request stays in the ledger until the collector reconciles
    /// it.
    pub fn close(
        &mut self,
        mut ticket: Ticket,
        end: End,
        shared: &mut impl SharedData,
    ) -> Result<(), Contended> {
        let Router { store, steps, tenants } = self;
        tenants.release(&mut ticket, shared);
        let repair = ticket.repair(end);
        let (_, (learned, correction)) = store.transact(shared, |ledger, shared| {
            let correction = repair.and_then(|repair| {
                // First what others wrote, so that the pod's clock is that of the log.
                steps.synchronize(ledger, shared);
                index_repair::write(&mut steps.replica, ledger, &ticket, repair)
            });
            Ok::<_, Contended>((ticket.close(ledger, end), correction))
        })?;
        index_repair::apply(&mut steps.replica, &ticket, correction);
        if let Some(bytes_per_token) = learned {
            steps.replica.learn_bytes_per_token(bytes_per_token);
        }
        Ok(())
    }

    /// Changes the ledger, once it has an account of every pod in the table.
    fn change_any(
        &self,
        shared: &mut impl SharedData,
        with: impl Fn(&mut Ledger, &PodTable),
    ) -> Result<(), Contended> {
        let table = self.table();
        self.change(shared, |ledger| {
            ledger.grow(table.pods.len());
            with(ledger, table);
        })
    }

    fn change<T>(
        &self,
        shared: &mut impl SharedData,
        with: impl Fn(&mut Ledger) -> T,
    ) -> Result<T, Contended> {
        let transaction = self.store.transact(shared, |ledger, _| Ok(with(ledger)));
        transaction.map(|(_, result)| result)
    }
}
