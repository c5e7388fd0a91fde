//! An agent call with any of its fields.

use std::time::Duration;

use wfhost::{Agent, agent};

use crate::operation::{Cache, Limits, Request, Retry};

pub fn ask(request: Request) -> Agent {
    let mut call = agent(request.prompt);
    if let Some(input) = request.input {
        call = call.input(input);
    }
    if !request.providers.is_empty() {
        call = call.providers(request.providers);
    }
    if let Some(model) = request.model {
        call = call.model(model);
    }
    if let Some(schema) = request.schema {
        call = call.schema(schema);
    }
    if let Some(session) = request.session {
        call = call.session(session);
    }
    if let Some(workspace) = request.workspace {
        call = call.workspace(workspace);
    }
    if let Some(label) = request.label {
        call = call.label(label);
    }
    if let Some(group) = request.group {
        call = call.group(group);
    }
    if let Some(retry) = request.retry {
        call = call.retry(retry.into());
    }
    if let Some(limits) = request.limits {
        call = call.limits(limits.into());
    }
    if let Some(Cache { version, ttl }) = request.cache {
        call = call.cache(version, ttl.map(Duration::from_millis));
    }
    if let Some(options) = request.options {
        call = call.options(options);
    }
    call
}

impl From<Retry> for wfhost::Retry {
    fn from(from: Retry) -> Self {
        let mut retry = Self::attempts(from.max_attempts).fatal(from.fatal);
        if let Some(initial) = from.initial {
            retry = retry.initial(Duration::from_millis(initial));
        }
        if let Some(factor) = from.factor {
            retry = retry.factor(factor);
        }
        if let Some(max) = from.max {
            retry = retry.max(Duration::from_millis(max));
        }
        if let Some(jitter) = from.jitter {
            retry = retry.jitter(jitter);
        }
        retry
    }
}

impl From<Limits> for wfhost::Limits {
    fn from(from: Limits) -> Self {
        let mut limits = Self::new();
        if let Some(attempt) = from.attempt {
            limits = limits.attempt(Duration::from_millis(attempt));
        }
        if let Some(total) = from.total {
            limits = limits.total(Duration::from_millis(total));
        }
        if let Some(heartbeat) = from.heartbeat {
            limits = limits.heartbeat(Duration::from_millis(heartbeat));
        }
        limits
    }
}
