//! Secrets for a start without any configuration: made once, kept in the data folder, readable by their owner only.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::Secret;

const FILE: &str = "dev-secrets.toml";

/// The secrets and where they are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevelopmentSecrets {
    /// `whsec_dev_…`
    pub webhook_secret: Secret,
    /// Opens the host's routes.
    pub api_token: Secret,
    /// Opens the operator's routes.
    pub admin_token: Secret,
    /// The file.
    pub path: PathBuf,
}

/// Why there are no development secrets.
#[derive(Debug, thiserror::Error)]
pub enum DevelopmentSecretsError {
    /// The file or its folder cannot be read or written.
    #[error(
        "the development secrets cannot be kept in {}; let TRUEUP_DATA name a folder that can be written, or set STRIPE_WEBHOOK_SECRET, \
         TRUEUP_API_TOKEN and TRUEUP_ADMIN_TOKEN",
        path.display()
    )]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is not what was written there.
    #[error("{} is not a file of development secrets; delete it, and new ones are made at the next start", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    stripe_webhook_secret: String,
    trueup_api_token: String,
    trueup_admin_token: String,
}

/// Reads the secrets of the folder; makes them where there are none. Of several processes that do so at once, all end with the same.
pub fn read_or_make(folder: &Path) -> Result<DevelopmentSecrets, DevelopmentSecretsError> {
    let path = folder.join(FILE);
    let failed = |source| DevelopmentSecretsError::Io { path: path.clone(), source };
    if let Some(secrets) = read(folder)? {
        return Ok(secrets);
    }
    fs::create_dir_all(folder).map_err(failed)?;
    // Written in full under another name and then linked: a link is made only where there is none, so the first one stays.
    let draft = folder.join(format!(".{FILE}.{}", random()));
    let made = write(&draft).and_then(|()| fs::hard_link(&draft, &path));
    let removed = fs::remove_file(&draft);
    match made {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(error)),
    }
    removed.map_err(failed)?;
    let unreadable = || DevelopmentSecretsError::Unreadable { path: path.clone() };
    read(folder)?.ok_or_else(unreadable)
}

/// Reads the secrets of the folder, if there are any.
pub fn read(folder: &Path) -> Result<Option<DevelopmentSecrets>, DevelopmentSecretsError> {
    let path = folder.join(FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(DevelopmentSecretsError::Io { path, source }),
    };
    keep_private(&path).map_err(|source| DevelopmentSecretsError::Io { path: path.clone(), source })?;
    let Ok(content) = toml::from_str::<Content>(&text) else {
        return Err(DevelopmentSecretsError::Unreadable { path });
    };
    Ok(Some(DevelopmentSecrets {
        webhook_secret: Secret::new(content.stripe_webhook_secret),
        api_token: Secret::new(content.trueup_api_token),
        admin_token: Secret::new(content.trueup_admin_token),
        path,
    }))
}

fn random() -> String {
    hex::encode(rand::random::<[u8; 24]>())
}

fn write(path: &Path) -> io::Result<()> {
    let mut file = create_private(path)?;
    write!(
        file,
        "# Made because no secrets were configured. For development only; delete this file for new ones.\n\
         stripe_webhook_secret = \"whsec_dev_{}\"\n\
         trueup_api_token = \"api_dev_{}\"\n\
         trueup_admin_token = \"admin_dev_{}\"\n",
        random(),
        random(),
        random()
    )?;
    file.sync_all()
}

#[cfg(unix)]
fn create_private(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

#[cfg(not(unix))]
fn create_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).open(path)
}

/// Closes the file to everybody else, should somebody have opened it.
#[cfg(unix)]
fn keep_private(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "the development secrets were open to others; closing the file");
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    }
    Ok(())
}

#[cfg(not(unix))]
fn keep_private(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_who_start_at_once_agree_and_leave_one_file_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("new/data");
        let all: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| read_or_make(&data).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(all.iter().all(|secrets| *secrets == all[0]));
        assert_eq!(read(&data).unwrap().as_ref(), Some(&all[0]));
        assert!(all[0].webhook_secret.expose().starts_with("whsec_dev_"));
        let files: Vec<_> = fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(files, [FILE]);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = || fs::metadata(data.join(FILE)).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode(), 0o600);
            fs::set_permissions(data.join(FILE), fs::Permissions::from_mode(0o644)).unwrap();
            read_or_make(&data).unwrap();
            assert_eq!(mode(), 0o600);
        }
    }

    #[test]
    fn a_spoilt_file_is_told_with_the_remedy_and_without_its_content() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path()).unwrap(), None);
        fs::write(folder.path().join(FILE), "stripe_webhook_secret = \"hidden\"").unwrap();
        let message = read_or_make(folder.path()).unwrap_err().to_string();
        assert!(message.contains("delete it"), "{message}");
        assert!(!message.contains("hidden"), "{message}");
    }

    #[test]
    fn secrets_are_not_shown_by_debug() {
        let folder = tempfile::tempdir().unwrap();
        let secrets = read_or_make(folder.path()).unwrap();
        let shown = format!("{secrets:?}");
        assert!(!shown.contains(secrets.api_token.expose()), "{shown}");
        assert!(!shown.contains("whsec_dev_"), "{shown}");
    }
}
