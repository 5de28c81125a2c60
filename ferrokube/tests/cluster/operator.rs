//! An operator as people write them with kube-rs: a kind that is derived from a type, a controller that applies what an object asks for,
//! a finalizer that takes it away again, a status that says how far it is.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::{finalizer, watcher};
use kube::{Api, Client, CustomResource, CustomResourceExt, Resource, ResourceExt};
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::process::Cluster;

const FINALIZER: &str = "operators.example.com/pages";
const GREETINGS: usize = 20;
/// Loaded machines are slow; nothing waits for so long otherwise.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Pages that greet.
#[derive(CustomResource, Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[kube(group = "operators.example.com", version = "v1", kind = "Greeting", namespaced, status = "GreetingStatus", shortname = "gr")]
#[kube(printcolumn = r#"{"name": "Pages", "type": "integer", "jsonPath": ".status.pages"}"#)]
struct GreetingSpec {
    #[schemars(length(min = 1))]
    text: String,
    #[schemars(range(min = 0, max = 10))]
    pages: u32,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct GreetingStatus {
    pages: u32,
    observed_generation: i64,
}

struct Operator {
    client: Client,
    /// Those that have been cleaned up after, which may happen more than once.
    cleaned: Mutex<BTreeSet<String>>,
}

impl Operator {
    fn maps(&self, greeting: &Greeting) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), &greeting.namespace().expect("a namespace"))
    }

    /// Applies the pages, deletes those that are too many, and says so.
    async fn apply(&self, greeting: &Greeting) -> Result<Action, kube::Error> {
        let maps = self.maps(greeting);
        let owner = greeting.controller_owner_ref(&()).expect("it is stored");
        for page in 0..greeting.spec.pages {
            let map = ConfigMap {
                metadata: kube::api::ObjectMeta {
                    name: Some(format!("{}-{page}", greeting.name_any())),
                    labels: Some(BTreeMap::from([("greeting".to_owned(), greeting.name_any())])),
                    owner_references: Some(vec![owner.clone()]),
                    ..Default::default()
                },
                data: Some(BTreeMap::from([("text".to_owned(), greeting.spec.text.clone())])),
                ..Default::default()
            };
            maps.patch(&map.name_any(), &PatchParams::apply("greetings"), &Patch::Apply(&map)).await?;
        }
        let selected = maps.list(&ListParams::default().labels(&format!("greeting={}", greeting.name_any()))).await?;
        for map in selected {
            let name = map.name_any();
            let page: u32 = name.rsplit('-').next().and_then(|page| page.parse().ok()).expect("a page");
            if page >= greeting.spec.pages {
                maps.delete(&name, &DeleteParams::default()).await?;
            }
        }
        let greetings: Api<Greeting> = Api::namespaced(self.client.clone(), &greeting.namespace().expect("a namespace"));
        let status = json!({"status": {"pages": greeting.spec.pages, "observedGeneration": greeting.meta().generation}});
        greetings.patch_status(&greeting.name_any(), &PatchParams::default(), &Patch::Merge(status)).await?;
        Ok(Action::await_change())
    }

    async fn clean(&self, greeting: &Greeting) -> Result<Action, kube::Error> {
        let selected = ListParams::default().labels(&format!("greeting={}", greeting.name_any()));
        self.maps(greeting).delete_collection(&DeleteParams::default(), &selected).await?;
        self.cleaned.lock().insert(greeting.name_any());
        Ok(Action::await_change())
    }
}

async fn reconcile(greeting: Arc<Greeting>, operator: Arc<Operator>) -> Result<Action, finalizer::Error<kube::Error>> {
    let greetings: Api<Greeting> = Api::namespaced(operator.client.clone(), &greeting.namespace().expect("a namespace"));
    finalizer::finalizer(&greetings, FINALIZER, greeting, |event| async {
        match event {
            finalizer::Event::Apply(greeting) => operator.apply(&greeting).await,
            finalizer::Event::Cleanup(greeting) => operator.clean(&greeting).await,
        }
    })
    .await
}

/// Waits until something is so.
async fn until<F: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> F) {
    let deadline = Instant::now() + TIMEOUT;
    while !check().await {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn settled(greetings: &Api<Greeting>, pages: u32) -> bool {
    let all = greetings.list(&ListParams::default()).await.expect("a list").items;
    let is_settled = |greeting: &Greeting| {
        let status = greeting.status.as_ref();
        status.is_some_and(|status| status.pages == pages && Some(status.observed_generation) == greeting.metadata.generation)
    };
    all.len() == GREETINGS && all.iter().all(is_settled)
}

#[tokio::test]
async fn an_operator_in_rust_makes_what_its_objects_ask_for_and_takes_it_away_again() {
    let data = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::start(data.path());
    let client = cluster.client().await;
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let name = Greeting::crd_name();
    definitions.patch(name, &PatchParams::apply("greetings"), &Patch::Apply(Greeting::crd())).await.expect("the definition is valid");
    let established = await_condition(definitions.clone(), name, conditions::is_crd_established());
    tokio::time::timeout(TIMEOUT, established).await.expect("in time").expect("established");

    let greetings: Api<Greeting> = Api::namespaced(client.clone(), "default");
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    until("it is served", || async { greetings.list(&ListParams::default()).await.is_ok() }).await;
    let operator = Arc::new(Operator { client: client.clone(), cleaned: Mutex::default() });
    let failures = Arc::new(AtomicUsize::new(0));
    let failed = {
        let failures = failures.clone();
        move |_: Arc<Greeting>, error: &finalizer::Error<kube::Error>, _: Arc<Operator>| {
            // That somebody else was faster is no failure: the object is looked at again.
            let is_conflict = |error: &kube::Error| matches!(error, kube::Error::Api(status) if status.code == 409);
            let is_overtaken = match error {
                finalizer::Error::AddFinalizer(error) | finalizer::Error::RemoveFinalizer(error) => is_conflict(error),
                _ => false,
            };
            failures.fetch_add(usize::from(!is_overtaken), Ordering::Relaxed);
            Action::requeue(Duration::from_millis(100))
        }
    };
    let controller = Controller::new(greetings.clone(), watcher::Config::default())
        .owns(maps.clone(), watcher::Config::default().labels("greeting"))
        .run(reconcile, failed, operator.clone());
    let running = tokio::spawn(controller.for_each(|_| async {}));

    let refused = Greeting::new("none", GreetingSpec { text: String::new(), pages: 11 });
    let refused = greetings.create(&PostParams::default(), &refused).await.expect_err("it breaks the derived rules").to_string();
    assert!(refused.contains("spec.text") && refused.contains("spec.pages"), "{refused}");
    for i in 0..GREETINGS {
        let greeting = Greeting::new(&format!("g{i}"), GreetingSpec { text: format!("hello {i}"), pages: 2 });
        greetings.create(&PostParams::default(), &greeting).await.expect("created");
    }
    until("all have two pages", || settled(&greetings, 2)).await;

    maps.delete("g0-1", &DeleteParams::default()).await.expect("deleted");
    until("the page is there again", || async { maps.get_opt("g0-1").await.expect("an answer").is_some() }).await;

    for i in 0..GREETINGS {
        let change = Patch::Merge(json!({"spec": {"pages": 1, "text": "bye"}}));
        greetings.patch(&format!("g{i}"), &PatchParams::default(), &change).await.expect("patched");
    }
    until("all have one page", || settled(&greetings, 1)).await;
    let pages = maps.list(&ListParams::default().labels("greeting")).await.expect("a list");
    assert_eq!(pages.items.len(), GREETINGS);
    assert!(pages.iter().all(|page| page.data.as_ref().is_some_and(|data| data["text"] == "bye")));

    // The definition goes only when the operator has cleaned up after every object.
    definitions.delete(name, &DeleteParams::default()).await.expect("deleted");
    until("the definition is gone", || async { definitions.get_opt(name).await.expect("an answer").is_none() }).await;
    assert_eq!(operator.cleaned.lock().len(), GREETINGS);
    let pages = maps.list(&ListParams::default().labels("greeting")).await.expect("a list");
    assert!(pages.items.is_empty(), "{} pages are left", pages.items.len());
    assert_eq!(failures.load(Ordering::Relaxed), 0, "nothing else went wrong");
    running.abort();
}
