//! Databases on a PostgreSQL server, which any number of hosts share.

mod backup;
mod copy;
mod errors;
mod failover;
mod guide;
mod limits;
mod modules;
mod pooler;
mod secure;
mod server;
mod trouble;
mod work;
