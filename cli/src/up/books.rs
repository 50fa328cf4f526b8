//! What a data folder says of its quorum, and what `ottla up` may therefore do.
//!
//! The file `quorum` lies beside `cluster.id` and is made before it. It says who votes, on which
//! ports (they are part of what voters know of each other: another `--port` does not move them),
//! and whether the permission to found the cluster is spent. A folder with an id and without this
//! file was made by an earlier version: it goes on with its one voter.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use ottla_operator::cluster::Layout;

/// The quorum of one data folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Books {
    /// Of the cluster.
    folder: PathBuf,
    pub layout: Layout,
    /// The port of the first node that votes; those of the others follow.
    pub port: u16,
}

impl Books {
    /// Opens the books of `folder`, or begins them for a cluster as `wanted`, with controllers from
    /// `port` on. More voters than before are written down; anything else that differs is not.
    pub fn open(folder: &Path, wanted: Layout, port: u16) -> io::Result<Self> {
        let new = Self { folder: folder.to_owned(), layout: wanted, port };
        match fs::read_to_string(new.path()) {
            Ok(text) => {
                let mut books = parse(folder, &text).ok_or_else(|| {
                    let what = format!("{} is not as `ottla up` wrote it", new.path().display());
                    io::Error::new(io::ErrorKind::InvalidData, what)
                })?;
                if grows(books.layout, wanted) {
                    books.layout = wanted;
                    books.write(is_spent(&text))?;
                }
                Ok(books)
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Err(_) if folder.join("cluster.id").exists() => {
                Ok(Self { layout: Layout::Static, ..new })
            }
            Err(_) => {
                fs::create_dir_all(folder)?;
                new.write(false)?;
                Ok(new)
            }
        }
    }

    /// Whether the founder may still be given the permission to found the cluster. Books that
    /// cannot be read give none.
    pub fn may_found(&self) -> bool {
        self.layout != Layout::Static
            && fs::read_to_string(self.path()).is_ok_and(|text| !is_spent(&text))
    }

    /// Writes down, durably, that the permission is spent.
    pub fn spend(&self) -> io::Result<()> {
        self.write(true)
    }

    fn path(&self) -> PathBuf {
        self.folder.join("quorum")
    }

    fn write(&self, spent: bool) -> io::Result<()> {
        let permission = if spent { "spent" } else { "given" };
        let (new, layout, port) = (self.folder.join("quorum.new"), self.layout, self.port);
        let mut file = File::create(&new)?;
        write!(
            file,
            "# Written by `ottla up`. Do not edit: two nodes that both found a cluster lose records.\n\
             voters={layout}\ncontroller.port={port}\nfounding={permission}\n"
        )?;
        file.sync_all()?;
        fs::rename(&new, self.path())?;
        File::open(&self.folder)?.sync_all()
    }
}

fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
}

fn parse(folder: &Path, text: &str) -> Option<Books> {
    Some(Books {
        folder: folder.to_owned(),
        layout: value(text, "voters")?.parse().ok()?,
        port: value(text, "controller.port")?.parse().ok()?,
    })
}

/// Only what says in so many words that it is not spent is not.
fn is_spent(text: &str) -> bool {
    value(text, "founding") != Some("given")
}

/// Nodes can be given a vote while the others keep theirs; everything else would need the consent
/// of nodes that are not started any more.
fn grows(from: Layout, to: Layout) -> bool {
    match (from, to) {
        (Layout::Combined { voters: from }, Layout::Combined { voters: to })
        | (Layout::Dedicated { voters: from }, Layout::Dedicated { voters: to }) => to > from,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREE: Layout = Layout::Combined { voters: 3 };

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn a_permission_is_spent_once_and_for_all() {
        let folder = folder();
        let books = Books::open(folder.path(), THREE, 10_092).unwrap();
        assert!(books.may_found());
        assert!(
            Books::open(folder.path(), THREE, 10_092).unwrap().may_found(),
            "until it is spent"
        );
        books.spend().unwrap();
        assert!(!books.may_found());
        fs::remove_file(folder.path().join("cluster.id")).unwrap_or_default();
        assert!(!Books::open(folder.path(), THREE, 10_092).unwrap().may_found());
        fs::write(folder.path().join("quorum"), "").unwrap();
        assert!(!books.may_found(), "damaged books give no permission");
        assert!(Books::open(folder.path(), THREE, 10_092).is_err());
    }

    #[test]
    fn controllers_stay_on_their_ports() {
        let folder = folder();
        Books::open(folder.path(), THREE, 10_092).unwrap();
        assert_eq!(Books::open(folder.path(), THREE, 20_092).unwrap().port, 10_092);
    }

    #[test]
    fn a_folder_of_an_earlier_version_keeps_its_single_voter_and_gets_no_permission() {
        let folder = folder();
        fs::write(folder.path().join("cluster.id"), "id\n").unwrap();
        let books = Books::open(folder.path(), THREE, 10_092).unwrap();
        assert_eq!(books.layout, Layout::Static);
        assert!(!books.may_found());
        assert!(!folder.path().join("quorum").exists(), "the version before can still use it");
    }

    #[test]
    fn voters_are_added_between_two_runs_and_never_taken_away() {
        let folder = folder();
        let one = Layout::Combined { voters: 1 };
        Books::open(folder.path(), one, 10_092).unwrap().spend().unwrap();
        let grown = Books::open(folder.path(), THREE, 10_092).unwrap();
        assert_eq!((grown.layout, grown.may_found()), (THREE, false));
        assert_eq!(Books::open(folder.path(), one, 10_092).unwrap().layout, THREE);
        let dedicated = Layout::Dedicated { voters: 5 };
        assert_eq!(Books::open(folder.path(), dedicated, 10_092).unwrap().layout, THREE);
    }
}
