//! What the machine allows, tried out.

use super::{cluster, disks::Disks, scenario::Ability, scenario::Scenario, spaces};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// What the scenario needs and the machine does not allow, with the reason.
pub(super) async fn probe(
    scenario: &Scenario,
    require: &[Ability],
    folder: &Path,
) -> anyhow::Result<BTreeMap<Ability, String>> {
    let mut without = BTreeMap::new();
    for ability in scenario.needs().into_iter().chain(require.iter().copied()).collect::<BTreeSet<_>>() {
        if let Some(why) = refused(ability, folder).await {
            anyhow::ensure!(!require.contains(&ability), "{ability:?} is required, and not possible here: {why}");
            without.insert(ability, why);
        }
    }
    Ok(without)
}

/// Why the machine does not allow it; `None` when it does.
async fn refused(ability: Ability, folder: &Path) -> Option<String> {
    match ability {
        Ability::Clock => {
            cluster::fake_clock().is_none().then(|| "libfaketime is not installed (package faketime)".into())
        }
        Ability::Netns => spaces::refused(),
        Ability::Delay => spaces::no_delay(),
        Ability::PowerLoss | Ability::FsyncError | Ability::DiskFull => {
            if !rustix::process::geteuid().is_root() {
                return Some("only root can mount".into());
            }
            let probe = folder.join("probe");
            let tried = try_disks(&probe).await;
            let _ = std::fs::remove_dir_all(&probe);
            tried.err().map(|error| format!("{error:#}"))
        }
    }
}

async fn try_disks(probe: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(probe)?;
    let disks = Disks::make(probe, 1).await?;
    let lost = disks.at(1).join("lost");
    std::fs::write(&lost, "not synced")?;
    disks.cut(1)?;
    let restored = disks.restore(1).await;
    let was_lost = !lost.exists();
    disks.close(1);
    restored?;
    anyhow::ensure!(was_lost, "a file that was not synced survived");
    Ok(())
}
