//! What runs reached. A storm that reached nothing proves nothing: a run below the minima fails, and so does a set of runs that
//! never came to one of the interesting states.

use super::{Course, Fault, Options};
use std::{collections::BTreeMap, fmt::Write as _};

/// States that a set of runs must reach, as `observe::reached` of the product names them; those in capitals are the world's own.
const INTERESTING: [&str; 22] = [
    LOSSY,
    TORN,
    FAILED,
    RESET,
    EXISTS,
    "leader change with produce in flight",
    "node back before it was suspected",
    "checkpoint installed",
    "learner swap committed",
    "proposal refused in mid-pipeline",
    "split vote",
    "transfer timed out",
    "write-ahead log file recycled",
    "tail carried forward",
    "duplicate answered with its original offset",
    "trim past a follower",
    "group handed to a new home",
    "watermark below a client's position",
    LOST,
    TWICE,
    LATE,
    BLOCKED,
];
pub(super) const LOST: &str = "datagram lost";
pub(super) const TWICE: &str = "datagram came twice";
pub(super) const LATE: &str = "datagram overtaken by those of 300 ms";
pub(super) const BLOCKED: &str = "datagram stopped on one way or both";
pub(super) const FAILED: &str = "send that surely failed";
pub(super) const RESET: &str = "group reset";
pub(super) const EXISTS: &str = "topic refused that exists";
pub(super) const TORN: &str = "write of which a loss of power left a part";
const LOSSY: &str = "unsynced bytes really lost";

/// What a run, or a set of them, reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Sums {
    /// Acknowledged records.
    pub acked: u64,
    /// Nodes that lost power.
    pub crashes: u64,
    /// Losses of power that took bytes which were written and not synced.
    pub lossy_crashes: u64,
    /// Those bytes.
    pub bytes_lost: u64,
    /// Partitions of the network.
    pub partitions: u64,
    /// Losses of power of all nodes at once.
    pub blackouts: u64,
    /// Virtual time of runs in frames mode, with set-up and healing.
    pub frames_ms: u64,
    /// The same in full mode.
    pub full_ms: u64,
    /// Faults that did something, by kind.
    pub made: BTreeMap<String, u64>,
    /// How often each interesting state was reached.
    pub reached: BTreeMap<String, u64>,
}

/// Crashes that lose bytes: a storm of 60 s has at least so many.
pub(super) const LOSSY_CRASHES_MIN: u64 = 5;
/// Partitions, likewise.
pub(super) const PARTITIONS_MIN: u64 = 3;
/// What a storm of 60 s reaches at least, or it was none: acknowledged records, crashes that lose bytes, partitions.
const LEAST: [u64; 3] = [1_000, LOSSY_CRASHES_MIN, PARTITIONS_MIN];

impl Sums {
    /// Adds another run's.
    pub fn add(&mut self, other: &Sums) {
        self.acked += other.acked;
        self.crashes += other.crashes;
        self.lossy_crashes += other.lossy_crashes;
        self.bytes_lost += other.bytes_lost;
        self.partitions += other.partitions;
        self.blackouts += other.blackouts;
        self.frames_ms += other.frames_ms;
        self.full_ms += other.full_ms;
        for (ours, theirs) in [(&mut self.made, &other.made), (&mut self.reached, &other.reached)] {
            for (what, times) in theirs {
                *ours.entry(what.clone()).or_default() += times;
            }
        }
    }

    pub(super) fn add_time(&mut self, full: bool, ms: u64) {
        *(if full { &mut self.full_ms } else { &mut self.frames_ms }) += ms;
    }

    pub(super) fn make(&mut self, kind: &'static str) {
        *self.made.entry(kind.into()).or_default() += 1;
    }

    pub(super) fn reach(&mut self, what: &str, times: u64) {
        if times > 0 {
            *self.reached.entry(what.into()).or_default() += times;
        }
    }

    /// Simulated hours per mode, for a person.
    pub fn hours(&self) -> String {
        let hours = |ms: u64| ms as f64 / 3_600_000.0;
        format!("simulated: {:.2} h of frames, {:.2} h of QUIC over UDP", hours(self.frames_ms), hours(self.full_ms))
    }

    /// What is below the least that such a storm has to reach, by its length; of a brief one only records are asked.
    pub fn short_of(&self, options: &Options) -> Option<String> {
        let reached = [self.acked, self.lossy_crashes, self.partitions];
        let names = ["acknowledged records", "crashes that lose bytes", "partitions"];
        let least = LEAST.map(|least| least * options.seconds / 60);
        let asked = if options.course == Course::Brief { 1 } else { LEAST.len() };
        let first = (0..asked).find(|i| reached[*i] < least[*i])?;
        Some(format!("{} {}, at least {} are needed", reached[first], names[first], least[first]))
    }

    /// How often an interesting state was reached, or a kind of fault did something.
    pub fn times(&self, what: &str) -> u64 {
        match what {
            LOSSY => self.lossy_crashes,
            what => self.reached.get(what).or_else(|| self.made.get(what)).copied().unwrap_or(0),
        }
    }

    /// Interesting states that were never reached, and kinds of faults that never did anything.
    pub fn never(&self) -> Vec<&'static str> {
        let states = INTERESTING.into_iter().filter(|what| self.times(what) == 0);
        states.chain(Fault::KINDS.into_iter().filter(|kind| !self.made.contains_key(*kind))).collect()
    }
}

/// How often each interesting state was reached, a line each.
pub fn table(sums: &Sums) -> String {
    INTERESTING.iter().fold(String::from("sometimes:\n"), |mut out, what| {
        let _ = writeln!(out, "{:>10}  {what}", sums.times(what));
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Sums {
        /// Each state once.
        pub(in crate::sim) fn of_everything() -> Self {
            let once = |what: &str| (what.to_owned(), 1);
            let reached = INTERESTING.into_iter().filter(|what| *what != LOSSY).map(once).collect();
            Self { lossy_crashes: 1, made: Fault::KINDS.map(once).into(), reached, ..Self::default() }
        }
    }

    #[test]
    fn a_state_that_no_run_reached_is_missed() {
        assert_eq!(Sums::of_everything().never(), [""; 0]);
        for what in INTERESTING.into_iter().chain(Fault::KINDS) {
            let mut sums = Sums::of_everything();
            if what == LOSSY {
                sums.lossy_crashes = 0;
            } else {
                assert!(sums.reached.remove(what).or(sums.made.remove(what)).is_some(), "{what}");
            }
            assert_eq!(sums.never(), [what]);
        }
        assert_eq!(Sums::default().never().len(), INTERESTING.len() + Fault::KINDS.len());
    }
}
