//! A store that answers from a script, for tests of what stands before it. Keeps every statement it was given.

use std::sync::Mutex;

use async_trait::async_trait;

use super::{Row, Statement, Store, StoreError};

/// What the script says to one call.
pub enum Answer {
    /// These rows.
    Rows(Vec<Row>),
    /// This failure.
    Fail(StoreError),
    /// Nothing, ever.
    Silence,
}

type Script = dyn Fn(usize, &Statement) -> Answer + Send + Sync;

/// A store that answers from a script.
pub struct Scripted {
    script: Box<Script>,
    seen: Mutex<Vec<Statement>>,
}

impl Scripted {
    /// A store that answers by `script`, which is given the number of the call, from 1, and its statement.
    pub fn new(script: impl Fn(usize, &Statement) -> Answer + Send + Sync + 'static) -> Self {
        Self { script: Box::new(script), seen: Mutex::new(Vec::new()) }
    }

    /// Every statement so far, in order.
    pub fn seen(&self) -> Vec<Statement> {
        self.seen.lock().expect("no holder of this lock panics").clone()
    }

    fn note(&self, statement: &Statement) -> usize {
        let mut seen = self.seen.lock().expect("no holder of this lock panics");
        seen.push(statement.clone());
        seen.len()
    }
}

#[async_trait]
impl Store for Scripted {
    async fn rows(&self, statement: &Statement) -> Result<Vec<Row>, StoreError> {
        let call = self.note(statement);
        match (self.script)(call, statement) {
            Answer::Rows(rows) => Ok(rows),
            Answer::Fail(error) => Err(error),
            Answer::Silence => std::future::pending().await,
        }
    }
}
