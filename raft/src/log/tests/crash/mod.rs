//! Recovery from every state that a loss of power can leave: behind each step of a short life, each subset of what was
//! not synced, writes torn between sectors; and again in the middle of recovery itself.
//!
//! What is asserted of each: the directory opens and no group is faulty (torn is not damaged); it holds exactly what it
//! held after some operation of the life, of all groups the same one, none that was acknowledged is missing, none that
//! was not asked for is there; recovered once more, it holds the same.
//!
//! The other side: what was synced and is gone is said, by each start until it is written down.
//!
//! `HIGHWATER_CRASH=deep` (with `-- --nocapture every_crash`, to see how far it is) also takes each subset of the sectors of small
//! writes, recovers twice from every state, and breaks off more recoveries. Above [`DEEP_STATES`] it takes a part of these
//! further states, the same in each run: a few minutes in a debug build.

mod medium;
mod workload;

use super::*;
use medium::{Files, Medium, SECTOR, SUBSETS_OF, State as Left};
use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
};
use workload::{Life, Logical, Seen, checkpoint, is_content, live, offset_at, stamp, tiny};

/// Recoveries after which another follows: one of so many.
const RECOVERED_TWICE: usize = 4;
/// Recoveries that are broken off: one of so many.
const BROKEN_OFF: usize = 200;
/// The same of `deep`: breaking one off takes fifty others, and breaking off all of them took hours.
const DEEP_BROKEN_OFF: usize = 40;
/// States that `deep` takes at most, beside those that are taken anyway.
const DEEP_STATES: usize = 50_000;
/// States between two lines that say how far it is.
const PROGRESS: usize = 1_000;

#[derive(Default, Debug)]
struct Counts {
    points: usize,
    /// Changes that were unsynced at one point, at most.
    unsynced: usize,
    states: usize,
    /// The same within recoveries.
    unsynced_in_recovery: usize,
    recoveries_broken: usize,
    states_in_recovery: usize,
}

/// What else is done with a state.
#[derive(Clone, Copy)]
struct Often {
    twice: bool,
    broken_off: bool,
}

#[test]
fn every_crash_leaves_what_was_acknowledged() {
    let deep = std::env::var_os("HIGHWATER_CRASH").is_some_and(|v| v == "deep");
    let counts = run(async move {
        let life = live().await;
        reaches_what_it_is_for(&life);
        let further = deep.then(|| Further::of(&life));
        let mut counts = Counts { points: life.steps.len() + 1, ..Counts::default() };
        let mut medium = Medium::default();
        let mut known: BTreeMap<Left, usize> = BTreeMap::new();
        for point in 0..=life.steps.len() {
            if let Some(step) = point.checked_sub(1) {
                medium.take(&life.steps[step]);
            }
            counts.unsynced = counts.unsynced.max(medium.unsynced());
            let (acked, asked) = life.bounds(point);
            let mut states = medium.states(false);
            if let Some(further) = &further {
                states.extend(medium.states(true).into_iter().filter(|left| further.takes(left)));
            }
            for left in states {
                let held = match known.get(&left) {
                    Some(held) => *held,
                    None => {
                        counts.states += 1;
                        if deep && counts.states.is_multiple_of(PROGRESS) {
                            eprintln!("step {point} of {}: {counts:?}", life.steps.len());
                        }
                        let files = medium.files(&left);
                        let each = |n: usize| counts.states.is_multiple_of(n);
                        let broken_off = each(if deep { DEEP_BROKEN_OFF } else { BROKEN_OFF });
                        let often = Often { twice: deep || each(RECOVERED_TWICE), broken_off };
                        let held = recovered(&life, files, (acked, asked), often, &mut counts).await;
                        let held = held.unwrap_or_else(|why| panic!("step {point}, {left:?}: {why}"));
                        known.insert(left.clone(), held);
                        held
                    }
                };
                assert!((acked..=asked).contains(&held), "step {point}: holds {held} of {acked}..={asked}; {left:?}");
            }
            known.retain(|_, held| *held >= acked);
        }
        counts
    });
    eprintln!("{counts:?}");
    // Above it some subsets would be left out.
    assert!(counts.unsynced.max(counts.unsynced_in_recovery) <= SUBSETS_OF, "{counts:?}");
    assert!(counts.points > 300 && counts.states > 2_500 && counts.states_in_recovery > 800, "{counts:?}");
}

/// What `deep` takes beside the states that are taken anyway: by their content, so the same in each run.
struct Further {
    each: u64,
}

impl Further {
    fn of(life: &Life) -> Self {
        let (mut medium, mut all) = (Medium::default(), BTreeSet::new());
        for step in &life.steps {
            medium.take(step);
            all.extend(medium.states(true).iter().map(number));
        }
        let each = all.len().div_ceil(DEEP_STATES).max(1);
        eprintln!("{} states: beside the usual ones one of {each} is taken", all.len());
        Self { each: each as u64 }
    }

    fn takes(&self, left: &Left) -> bool {
        number(left).is_multiple_of(self.each)
    }
}

fn number(left: &Left) -> u64 {
    let mut hasher = DefaultHasher::new();
    left.hash(&mut hasher);
    hasher.finish()
}

/// What this test is for happens in the life: files are switched and recycled, entries carried and moved, segments
/// sealed, trimmed and replaced.
fn reaches_what_it_is_for(life: &Life) {
    let named = |wanted: &dyn Fn(&str, &str) -> bool| {
        use crate::testing::disk::{NameChange, Step};
        let count = life.steps.iter().filter(|step| match step {
            Step::Named(NameChange::Rename(from, to)) => wanted(from, to),
            Step::Named(NameChange::Link(to, _)) => wanted("", to),
            Step::Named(NameChange::Unlink(from)) => wanted(from, ""),
            _ => false,
        });
        count.count()
    };
    let retired = named(&|from, to| from.ends_with(".wal") && (to.is_empty() || to.contains("spare-")));
    let reused = named(&|from, to| from.contains("spare-") && to.ends_with(".wal"));
    let segments = named(&|_, to| to.ends_with(".seg"));
    let gone = named(&|from, to| from.ends_with(".seg") && to.is_empty());
    let bases = named(&|_, to| to.ends_with(".base"));
    let restarts = named(&|_, to| to.ends_with("/restart"));
    let reached = [retired, reused, segments, gone, bases, restarts];
    assert!(reached.iter().all(|count| *count > 0), "retired, reused, segments, gone, bases, restarts: {reached:?}");
}

/// The check can fail: where nobody syncs the folder above, a group's folder may be gone.
#[test]
fn a_folder_whose_name_is_not_synced_is_missed() {
    use crate::testing::disk::Step;
    let why = run(async {
        let life = live().await;
        let mut medium = Medium::default();
        let of_groups = |step: &Step| matches!(step, Step::FolderSynced(folder) if folder == "groups");
        life.steps.iter().filter(|step| !of_groups(step)).for_each(|step| medium.take(step));
        for left in medium.states(false).into_iter().rev() {
            if let Err(why) = open(medium.files(&left)).await {
                return Some(why);
            }
        }
        None
    });
    assert!(why.as_ref().is_some_and(|why| why.starts_with("group ")), "{why:?}");
}

/// Recovers from these files; gives after which operation of the life the directory held what it holds now.
async fn recovered(
    life: &Life,
    files: Files,
    bounds: (usize, usize),
    often: Often,
    counts: &mut Counts,
) -> Result<usize, String> {
    let (seen, disk) = open(files.clone()).await?;
    let held = place(life, &seen, bounds)?;
    let steps = disk.journal();
    if often.twice {
        // The second start finds all that the first one wrote.
        let now = disk.files().into_iter().map(|(path, _)| (path.clone(), disk.content(&path).unwrap())).collect();
        let (again, _) = open(now).await.map_err(|why| format!("the second start: {why}"))?;
        if again != seen {
            return Err(format!("the second start finds {again:?}, the first {seen:?}"));
        }
    }
    if often.broken_off {
        counts.recoveries_broken += 1;
        let mut medium = Medium::of(&files);
        let mut known = BTreeSet::new();
        for (at, step) in steps.iter().enumerate() {
            medium.take(step);
            counts.unsynced_in_recovery = counts.unsynced_in_recovery.max(medium.unsynced());
            for left in medium.states(false) {
                if !known.insert(left.clone()) {
                    continue;
                }
                counts.states_in_recovery += 1;
                let (found, _) = open(medium.files(&left)).await.map_err(|why| format!("broken off at {at}: {why}"))?;
                if found != seen {
                    return Err(format!("broken off at {at}, {left:?}: {found:?}, else {seen:?}"));
                }
            }
        }
    }
    Ok(held)
}

fn place(life: &Life, seen: &Seen, (acked, asked): (usize, usize)) -> Result<usize, String> {
    let found = (acked..=asked).rev().find(|n| life.seen[*n] == *seen);
    found.ok_or_else(|| {
        let before = (0..life.seen.len()).rev().find(|n| life.seen[*n] == *seen);
        format!("acknowledged {acked}, asked for {asked}, found that of {before:?}: {seen:?}")
    })
}

/// Opens a directory and reads all of it; then the process dies.
async fn open(files: Files) -> Result<(Seen, Arc<SimDisk>), String> {
    let disk = holding(files);
    read_all(&disk).await.map(|seen| (seen, disk))
}

fn holding(files: Files) -> Arc<SimDisk> {
    let env = Env::simulated(5, 1_700_000_000_000, TaskSet::default());
    let disk = SimDisk::holding(env, SimLimits::instant(), files);
    disk.keep_journal();
    disk
}

async fn read_all(disk: &Arc<SimDisk>) -> Result<Seen, String> {
    let tasks = TaskSet::default();
    let env = Env::simulated(5, 1_700_000_000_000, tasks.clone());
    let directory = Directory::open(disk.clone(), tiny(), env).await.map_err(|error| error.to_string())?;
    let mut seen = Seen::default();
    for (id, replica, health) in directory.groups() {
        if let Health::Faulty(why) = health {
            return Err(format!("group {id}: {why}"));
        }
        let group = directory.group(id).unwrap();
        seen.groups.insert(id, read(&group, replica).await?);
    }
    seen.notes.extend(directory.noted("cluster").map(|value| ("cluster".to_owned(), value)));
    if let Some(why) = directory.damaged() {
        return Err(why);
    }
    tasks.crash();
    Ok(seen)
}

async fn read(group: &Group, replica: ReplicaId) -> Result<Logical, String> {
    let purged = group.purged();
    let from = purged.map_or(0, |id| id.index + 1);
    let mut entries = Vec::new();
    for found in group.read(from, u64::MAX, usize::MAX).await.map_err(|error| error.to_string())? {
        let id = LogId { term: found.term, index: found.index };
        if !is_content(group.id(), id, &found) || id.index != from + entries.len() as u64 {
            return Err(format!("group {}: {id:?} is another entry", group.id()));
        }
        entries.push(id);
    }
    let last = entries.last().copied().or(purged);
    if group.last() != last {
        return Err(format!("group {}: ends at {last:?}, says {:?}", group.id(), group.last()));
    }
    let restart = group.restart_checkpoint();
    let fits = restart.as_ref().map(|c| c.last) >= purged && restart.as_ref().map(|c| c.last) <= last;
    if !fits || restart.as_ref().is_some_and(|found| *found != checkpoint(found.last)) {
        return Err(format!("group {}: restarts from {restart:?}", group.id()));
    }
    served(group).await?;
    Ok(Logical { replica: replica.0, vote: group.vote(), purged, entries })
}

/// What is in segments is served.
async fn served(group: &Group) -> Result<(), String> {
    let (mut next, end) = (group.start_offset(), group.applied().map_or(0, |id| offset_at(id.index + 1)));
    while next < end {
        let found = group.read_applied(next, usize::MAX).await.map_err(|error| error.to_string())?;
        let Some(last) = found.last() else { return Err(format!("nothing at offset {next} of {end}")) };
        for applied in &found {
            let id = LogId { term: applied.entry.term, index: applied.entry.index };
            if applied.stamp != stamp(id.index) || !is_content(group.id(), id, &applied.entry) {
                return Err(format!("group {}: {id:?} is served as another entry", group.id()));
            }
        }
        next = last.stamp.offset_end;
    }
    Ok(())
}

/// The other side: what was synced and is gone is never taken for torn.
#[test]
fn a_synced_sector_that_is_gone_is_said() {
    let (sectors, said) = run(async {
        let life = live().await;
        let mut medium = Medium::default();
        life.steps.iter().for_each(|step| medium.take(step));
        let left = medium.states(false).into_iter().next_back().unwrap();
        let files = medium.files(&left);
        let newest = *life.seen.last().as_ref().unwrap();
        let (mut sectors, mut said) = (0, 0);
        for (path, content) in files.iter().filter(|(path, _)| path.ends_with(".wal")) {
            for at in (0..content.len()).step_by(SECTOR) {
                let mut hurt = files.clone();
                let gone = &mut hurt.get_mut(path).unwrap()[at..at + SECTOR];
                if gone.iter().all(|byte| *byte == 0) {
                    continue;
                }
                gone.fill(0);
                sectors += 1;
                match open(hurt).await {
                    Err(_) => said += 1,
                    // It was padding, a footer, or stood in a segment too.
                    Ok((seen, _)) => assert_eq!(seen, *newest, "{path} at {at}: silently lost"),
                }
            }
        }
        (sectors, said)
    });
    eprintln!("{sectors} sectors, {said} said to be damaged");
    assert!(said > sectors / 4, "{said} of {sectors}");
}

/// A start without the newest file, broken off anywhere, hides from the next one nothing of what is missing.
#[test]
fn a_newest_file_that_is_gone_is_said_by_every_start() {
    let states = run(async {
        let mut node = Node::new(7);
        let directory = node.open_with(tiny()).await;
        let group = create(&directory, G).await;
        for _ in 0..4 {
            vote(&group, b"given").await.unwrap();
        }
        sealed().await;
        node.kill();
        let all = node.disk.files().into_iter();
        let mut files: Files = all.map(|(path, _)| (path.clone(), node.disk.content(&path).unwrap())).collect();
        let [_, newest] = &node.wal_files()[..] else { panic!("two files: {:?}", node.wal_files()) };
        files.remove(newest);
        let disk = holding(files.clone());
        read_all(&disk).await.expect_err("the first start");
        let mut medium = Medium::of(&files);
        let mut known = BTreeSet::new();
        for (at, step) in disk.journal().iter().enumerate() {
            medium.take(step);
            for left in medium.states(false) {
                if known.insert(left.clone()) {
                    let found = read_all(&holding(medium.files(&left))).await;
                    assert!(found.is_err(), "broken off at {at}, {left:?}: nothing is said of {newest}");
                }
            }
        }
        known.len()
    });
    assert!(states > 20, "{states}");
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(local(future))
}
