use futures::FutureExt as _;
use serde_json::json;

use super::*;
use crate::cluster::memory::Memory;
use crate::metrics::Metrics;

struct World {
    waker: Arc<Waker>,
    queue: Arc<Queue>,
}

fn world() -> World {
    let queue = Arc::new(Queue::new(Arc::new(Metrics::new().unwrap()), |bytes| bytes.fill(0)));
    World { waker: Arc::new(Waker::new(Arc::clone(&queue))), queue }
}

fn key(kind: Kind, name: &str) -> ObjectKey {
    ObjectKey::new(kind, "team", name)
}

fn change(kind: Kind, name: &str, author: Author, object: Value) -> Change {
    let object = serde_json::from_value(object).unwrap();
    Change { key: key(kind, name), object: Arc::new(object), is_gone: false, author }
}

fn app(name: &str, placement: &str, secret: &str) -> Change {
    let keys = json!([{"name": "web", "secretRef": {"name": secret, "key": "k"}}]);
    let spec = json!({"dataplane": {"placement": placement}, "ingest": {"writeKeys": keys}});
    change(Kind::App, name, Author::Others, json!({"spec": spec}))
}

impl World {
    /// Names of what is due, and nothing is afterwards.
    async fn woken(&self) -> Vec<String> {
        // A namespace gathers for a moment.
        tokio::time::advance(Duration::from_millis(60)).await;
        let mut woken = Vec::new();
        while let Some(key) = self.queue.next().now_or_never() {
            woken.push(key.to_string());
            self.queue.done(key, crate::queue::Outcome::Done(crate::context::Next::OnChange));
        }
        woken.sort();
        woken
    }

    async fn wakes(&self, change: &Change, expected: &[&str]) {
        self.waker.changed(change);
        assert_eq!(self.woken().await, expected, "{:?} {}", change.author, change.key);
    }
}

#[tokio::test(start_paused = true)]
async fn wakes_whoever_is_concerned_and_nobody_else() {
    let world = world();
    world.wakes(&app("a", "Shared", "s"), &["App team/a", "namespace team"]).await;
    world.wakes(&app("b", "Dedicated", "s"), &["App team/b", "namespace team"]).await;
    let labelled = |name: &str, value: &str| json!({"metadata": {"labels": {name: value}}});
    let others = Author::Others;
    for (kind, object, expected) in [
        (Kind::RolePolicy, json!({}), &["App team/a", "App team/b", "namespace team"][..]),
        (Kind::Integration, json!({}), &["App team/a", "App team/b", "namespace team"]),
        (Kind::Pod, labelled(labels::DATA_PLANE, "shared"), &["App team/a", "namespace team"]),
        (Kind::Pod, labelled(labels::DATA_PLANE, "b"), &["App team/b", "namespace team"]),
        (Kind::Revision, labelled(labels::SCOPE, "a"), &["App team/a"]),
        (Kind::Revision, labelled(labels::SCOPE, "access"), &["namespace team"]),
        (Kind::Deployment, json!({}), &["namespace team"]),
        (Kind::Role, json!({}), &["namespace team"]),
    ] {
        world.wakes(&change(kind, "x", others, object), expected).await;
    }
    let scopes = |names: &[&str]| Fresh::Scopes(names.iter().map(|name| (*name).to_owned()).collect());
    for (fresh, expected) in [
        (Fresh::Anything, &["App team/a", "namespace team"][..]),
        (scopes(&["a"]), &["App team/a"]),
        (scopes(&["a", "access"]), &["App team/a", "namespace team"]),
        (Fresh::Nothing, &[]),
    ] {
        let news = News { namespace: "team".to_owned(), data_plane: "shared".to_owned(), fresh };
        world.waker.heard(&news);
        assert_eq!(world.woken().await, expected, "{news:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn our_own_writes_wake_only_who_reads_what_another_wrote() {
    let world = world();
    world.wakes(&app("a", "Shared", "s"), &["App team/a", "namespace team"]).await;
    for kind in [Kind::App, Kind::Revision, Kind::Integration, Kind::Deployment, Kind::Role] {
        world.wakes(&change(kind, "a", Author::Us, json!({})), &[]).await;
    }
    world.wakes(&change(Kind::Secret, "millrace-a", Author::Us, json!({})), &["namespace team"]).await;
    let pepper = change(Kind::Secret, labels::PEPPER_SECRET, Author::Us, json!({}));
    world.wakes(&pepper, &["App team/a", "namespace team"]).await;
    world.wakes(&change(Kind::Secret, "millrace.shared.ingest", Author::Us, json!({})), &[]).await;
    let gone = Change { is_gone: true, ..change(Kind::App, "a", Author::Us, json!({})) };
    world.wakes(&gone, &["App team/a", "namespace team"]).await;
    world.waker.wake_all();
    assert_eq!(world.woken().await, ["namespace team"], "an App that is gone is not looked at for ever");
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_is_named_wakes_within_a_minute_when_it_changes() {
    let world = world();
    let cluster = Memory::new();
    let secret = key(Kind::Secret, "keys");
    world.waker.changed(&app("a", "Shared", "keys"));
    world.waker.changed(&app("b", "Shared", "other"));
    world.woken().await;
    world.waker.compare_secrets_once(&cluster).await;
    assert_eq!(world.woken().await, ["App team/a", "App team/b", "namespace team"], "not seen before");
    world.waker.compare_secrets_once(&cluster).await;
    assert_eq!(world.woken().await, [""; 0]);
    for value in ["MQ==", "Mg=="] {
        cluster.put(&secret, &json!({"data": {"k": value}}));
        world.waker.compare_secrets_once(&cluster).await;
        assert_eq!(world.woken().await, ["App team/a", "namespace team"]);
    }
    cluster.remove(&secret);
    world.waker.compare_secrets_once(&cluster).await;
    assert_eq!(world.woken().await, ["App team/a", "namespace team"]);
}

#[tokio::test(start_paused = true)]
async fn everything_is_looked_at_again_every_ten_minutes() {
    let world = world();
    world.waker.changed(&app("a", "Shared", "s"));
    world.woken().await;
    let resync = tokio::spawn({
        let waker = Arc::clone(&world.waker);
        async move { waker.resync(|bytes| bytes.fill(0)).await }
    });
    let begun = tokio::time::Instant::now();
    assert_eq!(world.queue.next().await.to_string(), "App team/a");
    assert_eq!(begun.elapsed(), RESYNC);
    resync.abort();
}
