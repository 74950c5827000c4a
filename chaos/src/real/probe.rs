//! What the machine allows, tried out.

use super::{cluster, disks::Disks, scenario::Ability, scenario::Scenario, spaces};
use anyhow::Context as _;
use highwater_raft::env::Env;
use std::{collections::BTreeMap, os::unix::fs::FileExt as _, path::Path};
use tokio::process::Command;

/// What the scenario needs and the machine does not allow, with the reason that `refused` gives.
///
/// # Errors
/// When that is required, or something is required that the scenario does not need.
pub(super) async fn probe(
    scenario: &Scenario,
    require: &[Ability],
    folder: &Path,
    refused: impl AsyncFn(Ability, &Path) -> Option<String>,
) -> anyhow::Result<BTreeMap<Ability, String>> {
    let needs = scenario.needs();
    for ability in require {
        anyhow::ensure!(needs.contains(ability), "{ability:?} is required, and nothing in the scenario needs it");
    }
    let mut without = BTreeMap::new();
    for ability in needs {
        if let Some(why) = refused(ability, folder).await {
            anyhow::ensure!(!require.contains(&ability), "{ability:?} is required, and not possible here: {why}");
            without.insert(ability, why);
        }
    }
    Ok(without)
}

/// Why the machine does not allow it; `None` when it does.
pub(super) async fn refused(ability: Ability, folder: &Path) -> Option<String> {
    let tried = match ability {
        Ability::Netns => return spaces::refused(),
        Ability::Delay => return spaces::no_delay(),
        Ability::Clock => match cluster::fake_clock() {
            Some(library) => try_clock(&library, &folder.join("clock")).await,
            None => Err(anyhow::anyhow!("libfaketime is not installed (package faketime)")),
        },
        Ability::PowerLoss | Ability::FsyncError | Ability::DiskFull => {
            if !rustix::process::geteuid().is_root() {
                return Some("only root can mount".into());
            }
            let probe = folder.join("probe");
            let tried = try_disk(&probe, if ability == Ability::FsyncError { fails } else { forgets }).await;
            let _ = std::fs::remove_dir_all(&probe);
            tried
        }
    };
    tried.err().map(|error| format!("{error:#}"))
}

/// A process under the library prints another time.
async fn try_clock(library: &Path, file: &Path) -> anyhow::Result<()> {
    const AHEAD_S: u64 = 1_000_000;
    cluster::set_clock(file, i64::try_from(AHEAD_S)?)?;
    let mut date = Command::new("date");
    cluster::with_clock(&mut date, library, file);
    let output = date.arg("+%s").output().await.context("could not run date")?;
    let printed: u64 = String::from_utf8_lossy(&output.stdout).trim().parse().context("date prints no number")?;
    let due = Env::real().now_ms() / 1_000 + AHEAD_S;
    anyhow::ensure!(printed.abs_diff(due) < 60, "a process under {} sees no other time", library.display());
    Ok(())
}

/// Makes a disk, does something to it, and sees whether it can be had again.
async fn try_disk(probe: &Path, harm: impl FnOnce(&Disks) -> anyhow::Result<()>) -> anyhow::Result<()> {
    std::fs::create_dir_all(probe)?;
    let disks = Disks::make(probe, 1).await?;
    let harmed = harm(&disks);
    let restored = disks.restore(1).await;
    let was_lost = !disks.at(1).join("lost").exists();
    disks.close(1);
    harmed.and(restored)?;
    anyhow::ensure!(was_lost, "a file that was not synced survived");
    Ok(())
}

fn forgets(disks: &Disks) -> anyhow::Result<()> {
    std::fs::write(disks.at(1).join("lost"), "not synced")?;
    disks.cut(1)
}

/// What is synced before the disk fails.
const SYNCED: [u8; 8192] = [b'.'; 8192];

/// Syncs fail, and nothing before them, of a file that does not grow: as the write-ahead log's.
fn fails(disks: &Disks) -> anyhow::Result<()> {
    let file = std::fs::File::create(disks.at(1).join("kept"))?;
    file.write_all_at(&SYNCED, 0)?;
    file.sync_all()?;
    disks.fail(1)?;
    file.write_all_at(b"here", 0).context("a write fails, not its sync")?;
    let error = file.sync_data().err().context("a sync succeeded on a device that fails")?;
    anyhow::ensure!(error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()), "a sync fails with {error}");
    file.write_all_at(b"there", 4096).context("a write fails behind a sync that failed")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::real::not_run;

    async fn no_clock(what: Ability, _: &Path) -> Option<String> {
        (what == Ability::Clock).then(|| "no faketime".into())
    }

    #[tokio::test]
    async fn what_is_not_required_is_left_out_with_the_reason() {
        let power = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/power.toml");
        let (scenario, here) = (Scenario::read(&power).unwrap(), Path::new("."));
        let without = probe(&scenario, &[Ability::PowerLoss], here, no_clock).await.unwrap();
        assert_eq!(without, BTreeMap::from([(Ability::Clock, "no faketime".to_owned())]));
        let error = probe(&scenario, &[Ability::PowerLoss, Ability::Clock], here, no_clock).await.unwrap_err();
        assert_eq!(error.to_string(), "Clock is required, and not possible here: no faketime");
    }

    #[tokio::test]
    async fn a_library_that_changes_no_clock_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let library = dir.path().join("libfaketime.so.1");
        std::fs::write(&library, "").unwrap();
        let error = try_clock(&library, &dir.path().join("clock")).await.unwrap_err().to_string();
        assert!(error.contains("sees no other time"), "{error}");
        match cluster::fake_clock() {
            Some(library) => try_clock(&library, &dir.path().join("clock")).await.unwrap(),
            None => not_run("faketime is missing"),
        }
    }

    /// Needs root; says so where it is not.
    #[tokio::test]
    async fn a_disk_fails_by_its_syncs_alone() {
        let dir = tempfile::tempdir().unwrap();
        let disks = match Disks::make(dir.path(), 1).await {
            Ok(disks) => disks,
            Err(error) => return not_run(&format!("{error:#}")),
        };
        fails(&disks).unwrap();
        disks.restore(1).await.unwrap();
        let kept = std::fs::read(disks.at(1).join("kept")).unwrap();
        assert!(kept == SYNCED, "what was synced is there, and nothing of what was written behind it");
        disks.close(1);
    }
}
