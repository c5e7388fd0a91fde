//! From names to addresses. Each name is looked up once for a connection, by us, and the connection goes to an address
//! that was judged: what the name stands for at another moment does not matter.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::address::is_public;
use crate::grant::Reach;

/// What knows the addresses of names.
pub(crate) trait Lookup: fmt::Debug + Send + Sync {
    fn lookup(&self, name: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>>;
}

/// As the machine looks them up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct System;

impl Lookup for System {
    fn lookup(&self, name: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    }
}

/// Looks names up, and takes only addresses that may be reached.
#[derive(Clone, Debug)]
pub(crate) struct Judged {
    pub lookup: Arc<dyn Lookup>,
    pub reach: Reach,
}

/// All addresses of a name are out of reach.
#[derive(Debug, thiserror::Error)]
#[error("the addresses of {0} are not on the public network")]
pub(crate) struct OutOfReach(String);

impl Judged {
    fn takes(&self, address: IpAddr) -> bool {
        match self.reach {
            Reach::Public => is_public(address),
            Reach::Loopback => address.is_loopback(),
            Reach::Any => true,
        }
    }
}

impl Resolve for Judged {
    fn resolve(&self, name: Name) -> Resolving {
        let judged = self.clone();
        Box::pin(async move {
            let found = judged.lookup.lookup(name.as_str().to_owned()).await?;
            let any = !found.is_empty();
            let taken: Vec<_> = found.into_iter().filter(|address| judged.takes(*address)).collect();
            match taken.is_empty() && any {
                true => Err(OutOfReach(name.as_str().to_owned()).into()),
                false => {
                    let taken = taken.into_iter().map(|address| SocketAddr::new(address, 0));
                    Ok(Box::new(taken) as Addrs)
                }
            }
        })
    }
}
