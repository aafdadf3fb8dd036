//! Whether there is room where we write: the embedded database, and the folder of our own files.

use std::path::{Path, PathBuf};

use billing::checkup::Item;

use crate::config::Config;

const AREA: &str = "disk";
const GIB: u64 = 1 << 30;
/// With less than this nothing more is stored before long.
const FULL: u64 = GIB / 8;

pub(super) fn disk(config: &Config) -> Vec<Item> {
    let Some(file) = config.database_file() else {
        let what = "the database's disk is the database server's to watch: this command sees only its own machine";
        return vec![Item::ok(AREA, what)];
    };
    let Some(folder) = existing(&file) else { return Vec::new() };
    let database = std::fs::metadata(&file).map_or(0, |file| file.len());
    match fs4::available_space(&folder).and_then(|free| Ok((free, fs4::total_space(&folder)?))) {
        Ok((free, total)) => vec![judge(&folder, free, total, database)],
        Err(error) => {
            let what = format!("the room in {} is not known: {error}", folder.display());
            vec![Item::warn(AREA, what, "look at it by hand (df)")]
        }
    }
}

/// The folder itself or the nearest one above that is there.
fn existing(file: &Path) -> Option<PathBuf> {
    let absolute = std::path::absolute(file).ok()?;
    absolute.ancestors().skip(1).find(|folder| folder.is_dir()).map(Path::to_owned)
}

/// Figures in, verdict out, all in bytes. A copy of the database, as a backup or `VACUUM` makes it, must have room as well.
fn judge(folder: &Path, free: u64, total: u64, database: u64) -> Item {
    let mib = |bytes: u64| bytes >> 20;
    let what = format!(
        "{} MiB of {} are free in {}, and the database has {}",
        mib(free),
        mib(total),
        folder.display(),
        mib(database)
    );
    let remedy = "make room, or move the database: a webhook that cannot be stored is refused, and Stripe sends it again for three days";
    if free < FULL {
        Item::bad(AREA, what, remedy)
    } else if free < GIB || free / 20 < total / 1000 || free < database.saturating_mul(2) {
        Item::warn(AREA, what, remedy)
    } else {
        Item::ok(AREA, what)
    }
}

#[cfg(test)]
mod tests {
    use billing::checkup::State;

    use super::*;

    #[test]
    fn a_disk_with_no_room_for_a_copy_of_the_database_is_warned_of_before_it_is_full() {
        let of = |free, total, database| judge(Path::new("data"), free, total, database).state;
        assert_eq!(of(50 * GIB, 100 * GIB, GIB), State::Ok);
        assert_eq!(of(GIB / 2, 100 * GIB, 0), State::Warn, "less than a gibibyte");
        assert_eq!(of(3 * GIB, 1000 * GIB, 0), State::Warn, "less than two percent");
        assert_eq!(of(50 * GIB, 100 * GIB, 40 * GIB), State::Warn, "no room for a copy");
        assert_eq!(of(GIB / 16, 100 * GIB, 0), State::Bad);
    }

    #[test]
    fn the_room_is_looked_for_where_the_database_will_be() {
        let folder = tempfile::tempdir().expect("a folder");
        let there = folder.path().canonicalize().expect("it is there");
        assert_eq!(existing(&there.join("data/new/trueup.db")), Some(there));
    }
}
