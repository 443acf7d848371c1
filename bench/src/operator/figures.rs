//! Measured values in, a table or a JSON document out, and whether every counter met its goal.

use serde_json::{Value, json};

use crate::settings::Output;

/// One measured value.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    name: String,
    value: f64,
    goal: Goal,
}

/// What a value should be.
#[derive(Clone, Copy, Debug)]
enum Goal {
    /// For information.
    None,
    /// At most this; printed only, since times and memory differ from machine to machine.
    Printed(f64),
    /// At most this on every machine.
    Held(f64),
}

impl Figure {
    /// For information.
    pub(crate) fn info(name: &str, value: f64) -> Self {
        Self { name: name.to_owned(), value, goal: Goal::None }
    }

    /// A time or an amount of memory.
    pub(crate) fn printed(name: &str, value: f64, goal: f64) -> Self {
        Self { name: name.to_owned(), value, goal: Goal::Printed(goal) }
    }

    /// A counter.
    pub(crate) fn held(name: &str, value: f64, goal: f64) -> Self {
        Self { name: name.to_owned(), value, goal: Goal::Held(goal) }
    }

    fn goal(&self) -> Option<f64> {
        match self.goal {
            Goal::None => None,
            Goal::Printed(goal) | Goal::Held(goal) => Some(goal),
        }
    }

    fn json(&self) -> Value {
        let held = matches!(self.goal, Goal::Held(_));
        json!({"name": self.name, "value": self.value, "goal": self.goal(), "held": held, "met": self.is_met()})
    }

    fn is_met(&self) -> bool {
        self.goal().is_none_or(|goal| self.value <= goal)
    }
}

/// Prints all of them; whether every counter met its goal.
pub(crate) fn print(figures: &[Figure], output: Output) -> bool {
    match output {
        Output::Text => {
            let width = figures.iter().map(|figure| figure.name.chars().count()).max().unwrap_or(0);
            for figure in figures {
                let goal = figure.goal().map(|goal| format!("goal <= {goal}")).unwrap_or_default();
                let missed = if figure.is_met() { "" } else { "  MISSED" };
                println!("{:<width$}  {:>10.2}  {goal}{missed}", figure.name, figure.value);
            }
        }
        Output::Json => println!("{:#}", Value::from_iter(figures.iter().map(Figure::json))),
    }
    figures.iter().all(|figure| !matches!(figure.goal, Goal::Held(_)) || figure.is_met())
}
