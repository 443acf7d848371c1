use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use tokio::time::timeout;

use super::*;
use crate::backends::memory::{Failure, Memory as Pods, Which};
use crate::cluster::memory::Memory;

struct World {
    cluster: Arc<Memory>,
    pods: Pods,
    reports: Arc<Reports>,
    news: mpsc::UnboundedReceiver<News>,
    published: Arc<Notify>,
    stop: CancellationToken,
}

impl World {
    fn new() -> Self {
        let (cluster, pods, reports) = (Arc::new(Memory::new()), Pods::new(), Arc::new(Reports::default()));
        let (sender, news) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let asked: Arc<dyn crate::backends::Pods> = Arc::new(pods.clone());
        let published = Arc::new(Notify::new());
        let (api, told) = (Arc::<Memory>::clone(&cluster), Arc::clone(&published));
        let poller = Poller::new(api, asked, Arc::clone(&reports), sender, told);
        tokio::spawn(poller.run(stop.clone()));
        Self { cluster, pods, reports, news, published, stop }
    }

    fn token(&self) {
        let key = ObjectKey::new(Kind::Secret, "default", labels::ADMIN_SECRET);
        self.cluster.put(&key, &json!({"data": {labels::STATE_TOKEN: STANDARD.encode("t")}}));
    }

    fn pod(&self, name: &str, ip: &str) {
        let labels = json!({
            labels::MANAGED_BY: labels::MANAGER, labels::COMPONENT: "ingest", labels::DATA_PLANE: "shared",
        });
        let key = ObjectKey::new(Kind::Pod, "default", name);
        self.cluster.put(&key, &json!({"metadata": {"labels": labels}, "status": {"podIP": ip}}));
    }

    fn answers(&self, name: &str, ip: &str, version: &str) {
        let state =
            json!({"pod": name, "role": "ingest", "version": version, "formatMax": "v1", "ready": true});
        self.pods.put_pod(&format!("http://{ip}:9090/state"), serde_json::from_value(state).unwrap());
    }

    async fn news(&mut self) -> String {
        let news = timeout(Duration::from_secs(100), self.news.recv()).await.unwrap().unwrap();
        format!("{}/{}", news.namespace, news.data_plane)
    }

    fn said(&self, pod: &str) -> Result<String, String> {
        let report = self.reports.of("default", pod).map_or(Err("nothing".to_owned()), |report| report.said);
        report.map(|state| state.version)
    }
}

#[tokio::test(start_paused = true)]
async fn what_pods_say_is_kept_and_news_are_told_once() {
    let mut world = World::new();
    world.token();
    world.pod("a", "10.0.0.1");
    world.answers("a", "10.0.0.1", "1");
    assert_eq!(world.news().await, "default/shared");
    assert_eq!(world.said("a"), Ok("1".to_owned()));
    let none = timeout(Duration::from_secs(5), world.news.recv()).await;
    assert!(none.is_err(), "the same again is no news");
    let key = ObjectKey::new(Kind::Pod, "default", "a");
    world.cluster.remove(&key);
    assert_eq!(world.news().await, "default/shared");
    assert_eq!(world.said("a"), Err("nothing".to_owned()));
    world.stop.cancel();
    assert!(
        timeout(Duration::from_secs(5), world.news.recv()).await.unwrap().is_none(),
        "it ends when told to"
    );
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_kept_in_its_own_words_until_the_cause_is_gone() {
    let mut world = World::new();
    world.pod("a", "10.0.0.1");
    world.news().await;
    assert!(
        world.said("a").unwrap_err().contains("token in Secret `millrace.admin`"),
        "{:?}",
        world.said("a")
    );
    world.token();
    world.pods.fail(Which::Pods, Some(Failure::Unreachable));
    world.news().await;
    let words = world.said("a").unwrap_err();
    world.pods.fail(Which::Pods, None);
    world.answers("b", "10.0.0.1", "1");
    world.news().await;
    assert_eq!(world.said("a"), Err("pod `b` answers at the address of `a`".to_owned()), "after {words}");
    world.answers("a", "10.0.0.1", "1");
    world.news().await;
    assert_eq!(world.said("a"), Ok("1".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_revision_that_is_published_is_asked_for_at_once() {
    let mut world = World::new();
    world.token();
    world.pod("a", "10.0.0.1");
    world.answers("a", "10.0.0.1", "1");
    world.news().await;
    // Just after a look, when the next one is farthest away.
    tokio::time::sleep(Duration::from_millis(3_010)).await;
    let labels =
        json!({labels::MANAGED_BY: labels::MANAGER, labels::SCOPE: "shop", labels::DATA_PLANE: "shared"});
    let key = ObjectKey::new(Kind::Revision, "default", "shop-1");
    world.cluster.put(&key, &json!({"metadata": {"labels": labels}, "spec": {"sequence": 1}}));
    world.published.notify_one();
    let begun = Instant::now();
    tokio::time::sleep(Duration::from_millis(150)).await;
    let scopes = json!({"shop": {"running": {"sequence": 1, "hash": "x"}}});
    let state = json!({"pod": "a", "role": "ingest", "version": "1", "formatMax": "v1", "ready": true, "scopes": scopes});
    world.pods.put_pod("http://10.0.0.1:9090/state", serde_json::from_value(state).unwrap());
    let news = world.news.recv().await.unwrap();
    assert_eq!(news.fresh, Fresh::Scopes(["shop".to_owned()].into()));
    assert!(begun.elapsed() <= Duration::from_millis(300), "{:?}", begun.elapsed());
}
