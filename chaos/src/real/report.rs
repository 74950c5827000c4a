//! What came of a run, in numbers and words.

use super::Ability;
use crate::checker::{Anomaly, Verdict};
use std::{collections::BTreeMap, time::Duration};

/// What came of a run.
#[derive(Debug, Default, serde::Serialize)]
pub struct Report {
    /// Records acknowledged.
    pub acked: u64,
    /// Records read at the end.
    pub read: u64,
    /// Acknowledged and not there, above the last that was read too.
    pub lost: usize,
    /// There twice.
    pub duplicated: usize,
    /// In another order than sent.
    pub reordered: usize,
    /// Other anomalies.
    pub other: usize,
    /// How long records were sent, in seconds.
    pub seconds: f64,
    /// How often each kind of fault was done.
    pub faults: BTreeMap<&'static str, u64>,
    /// What nodes said of themselves that was judged too.
    pub facts: u64,
    /// Datagrams between nodes that were lost on purpose.
    pub datagrams_lost: u64,
    /// Faults of the scenario that this machine does not allow: why.
    pub not_applied: Vec<String>,
    /// What went wrong beside the records.
    pub failures: Vec<String>,
    /// Nodes that fell while they led a partition of the load.
    pub failovers: u64,
    /// Longest time without an acknowledgement in a partition that the fallen node led, per fall: median, milliseconds.
    pub gap_p50_ms: u64,
    /// The worst of them.
    pub gap_max_ms: u64,
    /// Evidence, at most ten.
    pub evidence: Vec<Anomaly>,
}

impl Report {
    /// What the history shows.
    pub(super) fn of(verdict: Verdict) -> Self {
        let lost = verdict.count("lost write") + verdict.count("unseen");
        let (duplicated, reordered) = (verdict.count("duplicate"), verdict.count("reordered"));
        Self {
            acked: verdict.acked,
            read: verdict.read,
            lost,
            duplicated,
            reordered,
            other: verdict.anomalies.len() - lost - duplicated - reordered,
            evidence: verdict.anomalies.into_iter().take(10).collect(),
            ..Self::default()
        }
    }

    /// Of a run that an error kept from beginning.
    pub(super) fn failed(error: &anyhow::Error) -> Self {
        Self { failures: vec![format!("{error:#}")], ..Self::default() }
    }

    /// What was required and never done is a failure.
    pub(super) fn require(&mut self, required: &[Ability]) {
        let undone =
            required.iter().filter(|ability| ability.faults().iter().all(|kind| !self.faults.contains_key(kind)));
        self.failures.extend(undone.map(|ability| format!("{ability:?} is required, and was never done")));
    }

    /// Nothing is wrong.
    pub fn is_good(&self) -> bool {
        self.lost + self.duplicated + self.reordered + self.other == 0 && self.failures.is_empty() && self.acked > 0
    }

    /// One line.
    pub fn line(&self) -> String {
        format!(
            "acked {} · read {} · lost {} · duplicated {} · reordered {} · other {} · failovers {} · write gap p50 {:.1} s max {:.1} s",
            self.acked,
            self.read,
            self.lost,
            self.duplicated,
            self.reordered,
            self.other,
            self.failovers,
            Duration::from_millis(self.gap_p50_ms).as_secs_f64(),
            Duration::from_millis(self.gap_max_ms).as_secs_f64(),
        )
    }

    /// What was done, in words.
    pub fn deeds(&self) -> String {
        let mut deeds: Vec<String> = self.faults.iter().map(|(kind, times)| format!("{kind} {times}")).collect();
        if self.datagrams_lost > 0 {
            deeds.push(format!("{} datagrams lost", self.datagrams_lost));
        }
        if self.facts > 0 {
            deeds.push(format!("{} facts of nodes", self.facts));
        }
        deeds.join(" · ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checker,
        history::{History, What},
    };

    #[test]
    fn what_is_above_the_last_that_was_read_is_lost() {
        let mut history = History::default();
        for (at, value) in (0u64..).zip(10..14) {
            history.push(at, 1, What::Send { partition: 0, value });
            history.push(at, 1, What::SendOk { partition: 0, value, offset: at, epoch: 1 });
        }
        // Of offsets 0 to 3, one below and one above the last that was read are not there.
        history.push(9, 0, What::Final { partition: 0, start: 0, records: vec![(0, 10), (2, 12)] });
        let report = Report::of(checker::check(&history));
        assert_eq!((report.acked, report.read, report.lost, report.other), (4, 2, 2, 1), "{:?}", report.evidence);
        assert!(report.line().contains("lost 2") && !report.is_good());
    }

    #[test]
    fn what_is_required_must_have_been_done() {
        let mut report =
            Report { acked: 1, faults: [("power loss of all", 2), ("mute", 1)].into(), ..Report::default() };
        report.require(&[Ability::PowerLoss, Ability::Netns]);
        assert!(report.is_good(), "{report:?}");
        report.require(&[Ability::PowerLoss, Ability::Clock, Ability::Delay]);
        assert_eq!(report.failures, ["Clock is required, and was never done", "Delay is required, and was never done"]);
        assert!(!report.is_good());
    }
}
