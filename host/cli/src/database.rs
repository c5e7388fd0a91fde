//! Which database is meant, and what only one kind of database has.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use wfhost::store::{SharedStore, SqliteOptions, SqliteStore, StoreError, Synchronous};
use wfhost::world::environment;
use wfhost::world::private;
use wfhost::world::text::quoted;
use wfhost_core::RunId;
use wfhost_postgres::{Migrate, PostgresOptions, PostgresStore, without_password};

use super::Common;
use super::diagnostic::UserError;

/// The location of a database.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Database {
    File(PathBuf),
    /// The URL of a server, which may hold a password: it is never shown as it is.
    Server(String),
}

impl From<OsString> for Database {
    fn from(named: OsString) -> Self {
        match named.into_string() {
            Ok(text) if wfhost_config::is_url(&text) => Self::Server(text),
            Ok(text) => Self::File(text.into()),
            Err(path) => Self::File(path.into()),
        }
    }
}

impl Database {
    /// One that somebody has named. None has no name: SQLite would take that for one that goes with the process.
    pub fn named(named: OsString) -> Result<Self, &'static str> {
        if named.is_empty() { Err("it is empty: name a file or a URL") } else { Ok(named.into()) }
    }
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Server(url) => f.write_str(&without_password(url)),
        }
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Database({self})")
    }
}

impl Database {
    /// The name as given, including its password: for the environment of wfhost's own processes.
    pub fn as_named(&self) -> &OsStr {
        match self {
            Self::File(path) => path.as_os_str(),
            Self::Server(url) => url.as_ref(),
        }
    }

    /// Whether the database exists; always true for a server, which reports that itself.
    pub fn is_there(&self) -> bool {
        match self {
            Self::File(path) => path.exists(),
            Self::Server(_) => true,
        }
    }
}

/// A database that was opened.
#[derive(Clone, Debug)]
pub(crate) enum Opened {
    File(Arc<SqliteStore>),
    Server(Arc<PostgresStore>),
}

impl Opened {
    /// As what all databases are.
    pub fn shared(&self) -> SharedStore {
        match self {
            Self::File(store) => store.clone(),
            Self::Server(store) => store.clone(),
        }
    }

    /// Whether a run of this id was here and was deleted.
    pub async fn was_deleted(&self, run: &RunId) -> Result<bool, StoreError> {
        match self {
            Self::File(store) => store.was_deleted(run),
            Self::Server(store) => store.was_deleted(run).await,
        }
    }

    /// Faults of the database other than those of its runs.
    pub async fn faults(&self) -> Result<Vec<String>, StoreError> {
        match self {
            Self::File(store) => store.check(),
            Self::Server(store) => store.check().await,
        }
    }
}

impl Common {
    /// Opens a database; a file is made if it is not there, tables on a server are not.
    pub async fn open(&self, database: &Database) -> Result<Opened, UserError> {
        match database {
            Database::File(path) => {
                // Runs say what agents are asked. One that was not named may be anybody's.
                if self.db.is_none()
                    && let Err(strange) = private::check_place(path)
                {
                    let said = format!("the database {} is not used: {strange}", path.display());
                    let named = quoted(&path.to_string_lossy()).into_owned();
                    return Err(UserError::usage("WF0322", said)
                        .hint(format!("to use it anyway, name it explicitly: `--db {named}`")));
                }
                Ok(Opened::File(Arc::new(SqliteStore::open(path, &self.sqlite_options()?)?)))
            }
            Database::Server(url) => {
                let store = PostgresStore::open(url, &self.postgres_options(Migrate::No)).await?;
                Ok(Opened::Server(Arc::new(store)))
            }
        }
    }

    fn synchronous(&self) -> Synchronous {
        match self.synchronous {
            super::Synchronous::Full => Synchronous::Full,
            super::Synchronous::Normal => Synchronous::Normal,
        }
    }

    pub fn sqlite_options(&self) -> Result<SqliteOptions, UserError> {
        // A limit that can be had without a disk of that size.
        let pages = 1..=u64::from(u32::MAX);
        let max_pages = environment::number(environment::MAX_PAGES, pages, "a number of pages")?;
        let max_pages = max_pages.and_then(|pages| pages.try_into().ok());
        Ok(SqliteOptions { synchronous: self.synchronous(), max_pages, ..SqliteOptions::default() })
    }

    pub fn postgres_options(&self, migrate: Migrate) -> PostgresOptions {
        PostgresOptions {
            synchronous: self.synchronous(),
            migrate,
            password: environment::text(environment::PGPASSWORD),
            ..PostgresOptions::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_told_from_a_server_and_no_password_is_shown() {
        let named = |text: &str| Database::from(OsString::from(text));
        for file in ["wfhost.db", "/a/b.db", "postgres", "a:b", "./postgres://x"] {
            assert_eq!(named(file), Database::File(file.into()), "{file}");
        }
        let url = "postgres://ann:secret@db.example/work";
        let server = named(url);
        assert_eq!(server, Database::Server(url.to_owned()));
        assert_eq!(server.to_string(), "postgres://ann@db.example/work");
        assert_eq!(format!("{server:?}"), "Database(postgres://ann@db.example/work)");
        assert_eq!(server.as_named(), url);
    }
}
