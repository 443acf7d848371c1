//! A client that many share in, another one in its place out, once it is of no use any more: it ended for good, or gets no
//! answer where another does. librdkafka 2.12 forgets a broker that is away, and a client that hears of a leader or
//! coordinator there before it hears of the broker again goes on without it, as was seen, for minutes.

use std::sync::{Arc, Mutex, PoisonError};

/// The client there is now.
#[derive(Debug)]
pub struct Renewed<T> {
    now: Mutex<Arc<T>>,
}

impl<T> Renewed<T> {
    /// The first one.
    pub fn new(first: T) -> Self {
        Self { now: Mutex::new(Arc::new(first)) }
    }

    /// The one there is; it lives as long as somebody uses it, also when it was replaced.
    pub fn get(&self) -> Arc<T> {
        Arc::clone(&self.now.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts another one in the place of one that is of no use, unless somebody did so before; returns whether this call
    /// did. When none can be made, the old one stays.
    pub fn replace<E>(&self, useless: &Arc<T>, make: impl FnOnce() -> Result<T, E>) -> Result<bool, E> {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&now, useless) {
            return Ok(false);
        }
        *now = Arc::new(make()?);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[test]
    fn a_useless_one_is_replaced_once_however_many_say_so() {
        let clients = Renewed::new(1);
        let (first, other) = (clients.get(), clients.get());
        assert_eq!(clients.replace(&first, || Ok::<_, Infallible>(2)), Ok(true));
        assert_eq!(clients.replace(&other, || Ok::<_, Infallible>(3)), Ok(false));
        assert_eq!((*first, *clients.get()), (1, 2));
    }

    #[test]
    fn it_stays_when_there_is_no_other() {
        let clients = Renewed::new(1);
        assert_eq!(clients.replace(&clients.get(), || Err("none")), Err("none"));
        assert_eq!(*clients.get(), 1);
    }
}
