use futures::FutureExt as _;
use tokio::time::advance;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn queue() -> Queue {
    Queue::new(Arc::new(Metrics::new().unwrap()), |bytes| bytes.fill(0))
}

fn app(name: &str) -> Key {
    Key::App(AppId::new("team", name).unwrap())
}

/// The key that is due now, if any.
fn take(queue: &Queue) -> Option<Key> {
    queue.next().now_or_never()
}

#[tokio::test(start_paused = true)]
async fn a_key_waits_once_however_often_it_is_woken() {
    let queue = queue();
    for _ in 0..10 {
        queue.wake(app("a"));
    }
    queue.wake(app("b"));
    queue.measure();
    assert_eq!(queue.metrics.queue_depth.get(), 2);
    assert_eq!([take(&queue), take(&queue), take(&queue)], [Some(app("a")), Some(app("b")), None]);
}

#[tokio::test(start_paused = true)]
async fn a_key_is_never_worked_on_twice_at_once_and_no_wake_is_lost() {
    let queue = queue();
    queue.wake(app("a"));
    assert_eq!(take(&queue), Some(app("a")));
    queue.wake(app("a"));
    assert_eq!(take(&queue), None);
    queue.done(app("a"), Outcome::Done(Next::OnChange));
    assert_eq!(take(&queue), Some(app("a")));
    queue.done(app("a"), Outcome::Done(Next::OnChange));
    assert_eq!(take(&queue), None);
    assert!(queue.is_idle());
}

#[tokio::test(start_paused = true)]
async fn a_wake_interrupts_whoever_waits() {
    let queue = Arc::new(queue());
    queue.wake_after(app("later"), 100 * SECOND);
    let waiting = tokio::spawn({
        let queue = Arc::clone(&queue);
        async move { queue.next().await }
    });
    tokio::task::yield_now().await;
    queue.wake(app("now"));
    assert_eq!(waiting.await.unwrap(), app("now"));
    assert_eq!(queue.next().await, app("later"));
}

#[tokio::test(start_paused = true)]
async fn a_key_comes_back_when_it_asked_to_or_sooner_when_woken() {
    let queue = queue();
    let begun = Instant::now();
    queue.wake(app("a"));
    let key = queue.next().await;
    queue.done(key, Outcome::Done(Next::After(10 * SECOND)));
    assert_eq!(queue.next().await, app("a"));
    assert_eq!(begun.elapsed().as_secs(), 10);
    queue.done(app("a"), Outcome::Done(Next::After(10 * SECOND)));
    queue.wake(app("a"));
    assert_eq!(take(&queue), Some(app("a")));
    queue.done(app("a"), Outcome::Done(Next::OnChange));
    advance(100 * SECOND).await;
    assert_eq!(take(&queue), None, "the time it asked for earlier is void");
}

#[tokio::test(start_paused = true)]
async fn a_key_that_fails_waits_twice_as_long_each_time_until_it_succeeds() {
    let queue = queue();
    queue.wake(app("a"));
    let mut waits = Vec::new();
    for _ in 0..11 {
        let begun = Instant::now();
        let key = queue.next().await;
        waits.push(begun.elapsed().as_secs_f64().round());
        queue.done(key, Outcome::Failed);
    }
    assert_eq!(waits, [0.0, 1.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 120.0, 120.0]);
    assert_eq!(queue.metrics.queue_retries.get(), 11);
    queue.next().await;
    queue.done(app("a"), Outcome::Done(Next::OnChange));
    queue.wake(app("a"));
    assert_eq!(take(&queue), Some(app("a")));
    queue.done(app("a"), Outcome::Failed);
    let begun = Instant::now();
    queue.next().await;
    assert_eq!(begun.elapsed().as_millis(), 500);
}

#[tokio::test(start_paused = true)]
async fn a_change_shortens_the_wait_of_a_key_that_fails_but_a_storm_does_not_make_it_spin() {
    let queue = queue();
    queue.wake(app("a"));
    for _ in 0..8 {
        let key = queue.next().await;
        queue.done(key, Outcome::Failed);
    }
    let begun = Instant::now();
    queue.wake(app("a"));
    let key = queue.next().await;
    assert_eq!(begun.elapsed(), FAILED_PAUSE);
    queue.wake(key.clone());
    queue.done(key, Outcome::Failed);
    assert_eq!(take(&queue), None);
}

#[tokio::test(start_paused = true)]
async fn keys_do_not_wait_for_one_another() {
    let queue = queue();
    queue.wake(app("bad"));
    let bad = queue.next().await;
    queue.done(bad, Outcome::Failed);
    queue.wake(app("good"));
    assert_eq!(take(&queue), Some(app("good")));
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_forgotten_starts_anew() {
    let queue = queue();
    queue.wake(app("a"));
    queue.next().await;
    queue.done(app("a"), Outcome::Failed);
    queue.forget(&app("a"));
    advance(1_000 * SECOND).await;
    assert_eq!(take(&queue), None);
    queue.wake(app("a"));
    assert_eq!(take(&queue), Some(app("a")));
}

#[tokio::test(start_paused = true)]
async fn says_how_long_nothing_moved() {
    let queue = queue();
    assert_eq!(take(&queue), None);
    advance(100 * SECOND).await;
    assert_eq!(queue.stuck_for(), Duration::ZERO, "nothing to do is not stuck");
    queue.wake(app("a"));
    queue.wake(app("b"));
    advance(30 * SECOND).await;
    queue.measure();
    assert_eq!((queue.stuck_for(), queue.metrics.queue_oldest_seconds.get()), (30 * SECOND, 30.0));
    let key = queue.next().await;
    queue.done(key, Outcome::Failed);
    assert_eq!(queue.stuck_for(), Duration::ZERO);
}

#[test]
fn what_failed_together_does_not_come_back_together() {
    assert_eq!(backoff(1, 0.0), BACKOFF_MIN);
    assert_eq!(backoff(1, 0.5), BACKOFF_MIN.mul_f64(1.1));
    assert!(backoff(u32::MAX, 0.999) < BACKOFF_MAX.mul_f64(1.2));
}
