//! Databases on a PostgreSQL server, which any number of hosts share.

mod copy;
mod errors;
mod failover;
mod guide;
mod pooler;
mod proxy;
mod secure;
mod trouble;
mod work;
