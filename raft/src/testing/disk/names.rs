//! Names on a simulated disk: which files and folders there are, and how that changes.

use std::collections::{BTreeMap, BTreeSet};

/// A change to the names of files and folders.
#[derive(Clone, Debug)]
pub enum NameChange {
    /// This name is this file.
    Link(String, u64),
    /// No file has this name.
    Unlink(String),
    /// The file of the first name has the second.
    Rename(String, String),
    /// There is a folder of this name.
    MakeFolder(String),
    /// There is no folder of this name, and nothing in it.
    RemoveFolder(String),
}

impl NameChange {
    /// Whether a sync of this folder makes it durable.
    pub fn is_in(&self, path: &str) -> bool {
        match self {
            Self::Link(name, _) | Self::Unlink(name) | Self::MakeFolder(name) | Self::RemoveFolder(name) => {
                folder(name) == path
            }
            Self::Rename(from, to) => folder(from) == path || folder(to) == path,
        }
    }
}

/// Which files and folders there are. The root is always there.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Paths of files, and which file each is.
    pub files: BTreeMap<String, u64>,
    pub(super) folders: BTreeSet<String>,
}

impl Names {
    /// These files, and the folders that they are in.
    pub fn of(files: BTreeMap<String, u64>) -> Self {
        let folders = files.keys().flat_map(|path| upwards(folder(path))).map(String::from).collect();
        Self { files, folders }
    }

    /// Makes a change.
    pub fn apply(&mut self, change: &NameChange) {
        match change {
            NameChange::Link(path, inode) => {
                self.files.insert(path.clone(), *inode);
            }
            NameChange::Unlink(path) => {
                self.files.remove(path);
            }
            NameChange::Rename(from, to) => {
                if let Some(inode) = self.files.remove(from) {
                    self.files.insert(to.clone(), inode);
                }
            }
            NameChange::MakeFolder(path) => {
                self.folders.insert(path.clone());
            }
            NameChange::RemoveFolder(path) => {
                self.files.retain(|name, _| !is_below(name, path));
                self.folders.retain(|name| name != path && !is_below(name, path));
            }
        }
    }

    /// What is in a folder that is not there is not there either.
    pub fn forget_unreachable(&mut self) {
        let mut reached = BTreeSet::new();
        // Sorted: a folder comes before what is in it.
        for path in std::mem::take(&mut self.folders) {
            if folder(&path).is_empty() || reached.contains(folder(&path)) {
                reached.insert(path);
            }
        }
        self.files.retain(|path, _| folder(path).is_empty() || reached.contains(folder(path)));
        self.folders = reached;
    }

    pub(super) fn has_folder(&self, path: &str) -> bool {
        path.is_empty() || self.folders.contains(path)
    }
}

/// The folder that a file or folder is in.
pub(super) fn folder(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// A folder and those above it, without the root.
pub(super) fn upwards(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |&at| Some(folder(at))).take_while(|at| !at.is_empty())
}

/// Whether a file or folder is in this folder, or in one that is in it.
pub(super) fn is_below(name: &str, path: &str) -> bool {
    name.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'))
}
