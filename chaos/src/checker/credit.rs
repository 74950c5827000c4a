//! A push subscription is sent no more than was granted: what is in flight to its client is within the client's window.

use super::{Anomaly, anomaly, group_place};
use crate::history::{Event, Fact, What};
use std::collections::BTreeMap;

#[derive(Default)]
struct Account {
    granted: [u64; 2],
    sent: [u64; 2],
}

pub(super) fn check(events: &[Event], found: &mut Vec<Anomaly>) {
    let mut accounts: BTreeMap<(u64, u64, u64), Account> = BTreeMap::new();
    for event in events {
        let What::Saw { life, fact } = &event.what else { continue };
        match fact {
            Fact::Granted { session, link, fresh, records, bytes } => {
                let account = accounts.entry((*life, *session, *link)).or_default();
                if *fresh {
                    *account = Account::default();
                }
                account.granted[0] += records;
                account.granted[1] += bytes;
            }
            Fact::Delivered { session, link, records, bytes } => {
                let account = accounts.entry((*life, *session, *link)).or_default();
                account.sent[0] += records;
                account.sent[1] += bytes;
                for (i, unit) in ["records", "bytes"].into_iter().enumerate() {
                    let (granted, sent) = (account.granted[i], account.sent[i]);
                    if sent > granted && sent - [*records, *bytes][i] <= granted {
                        let text = format!("node {} sent {sent} {unit}, {granted} were granted", event.process);
                        found.push(anomaly("credit overdrawn", group_place(*link), text));
                    }
                }
            }
            _ => {}
        }
    }
}
