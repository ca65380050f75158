//! A stand-in for the kubelet's device manager: the real interfaces over real sockets, and what it does with them.
//!
//! As the kubelet does, it empties its folder of sockets when it starts, calls a plugin back when that registers, takes every list as the
//! whole, gives no device twice, asks which are preferred before it allocates, and remembers over a restart what pods have.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use clearway_sriov::plugin::api::podresources as pods;
use clearway_sriov::plugin::api::v1beta1 as api;
use pods::pod_resources_lister_server::{PodResourcesLister, PodResourcesListerServer};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

pub(crate) type Plugin = api::device_plugin_client::DevicePluginClient<Channel>;

/// What outlives the kubelet: its checkpoint.
#[derive(Clone, Default)]
pub(crate) struct Checkpoint(Arc<Mutex<Pods>>);

/// What each pod has: resources and devices.
type Pods = BTreeMap<String, Vec<(String, String)>>;

/// What it knows of one resource.
#[derive(Clone, Default)]
pub(crate) struct Known {
    pub(crate) endpoint: String,
    pub(crate) registrations: usize,
    pub(crate) lists: usize,
    pub(crate) devices: BTreeMap<String, api::Device>,
    /// The plugin's stream has ended: nothing can be had.
    pub(crate) gone: bool,
}

pub(crate) struct Kubelet {
    pub(crate) folder: PathBuf,
    pub(crate) pod_resources: PathBuf,
    checkpoint: Checkpoint,
    state: Arc<State>,
    servers: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    folder: PathBuf,
    known: Mutex<BTreeMap<String, Known>>,
    calls: Mutex<Vec<JoinHandle<()>>>,
    refuse: Mutex<bool>,
}

struct Registration(Arc<State>);

#[tonic::async_trait]
impl api::registration_server::Registration for Registration {
    async fn register(&self, request: Request<api::RegisterRequest>) -> Result<Response<api::Empty>, Status> {
        let request = request.into_inner();
        if *self.0.refuse.lock().unwrap() {
            return Err(Status::unavailable("not now"));
        }
        if request.version != "v1beta1"
            || request.endpoint.contains('/')
            || !request.resource_name.contains('/')
        {
            return Err(Status::invalid_argument(format!("{request:?}")));
        }
        assert!(request.options.unwrap().get_preferred_allocation_available);
        let state = self.0.clone();
        let call = tokio::spawn(async move {
            let mut plugin = connect(&state.folder.join(&request.endpoint)).await;
            let stream = plugin.list_and_watch(api::Empty {}).await.unwrap();
            let mut stream = stream.into_inner();
            let of = |change: &mut dyn FnMut(&mut Known)| {
                let mut known = state.known.lock().unwrap();
                change(known.entry(request.resource_name.clone()).or_default());
            };
            of(&mut |known| {
                known.endpoint = request.endpoint.clone();
                known.registrations += 1;
                known.gone = false;
            });
            while let Ok(Some(list)) = stream.message().await {
                let devices = list.devices.into_iter().map(|device| (device.id.clone(), device));
                let devices: BTreeMap<_, _> = devices.collect();
                of(&mut |known| {
                    known.lists += 1;
                    known.devices = devices.clone();
                });
            }
            of(&mut |known| known.gone = true);
        });
        self.0.calls.lock().unwrap().push(call);
        Ok(Response::new(api::Empty {}))
    }
}

struct Lister(Checkpoint);

#[tonic::async_trait]
impl PodResourcesLister for Lister {
    async fn list(
        &self,
        _: Request<pods::ListPodResourcesRequest>,
    ) -> Result<Response<pods::ListPodResourcesResponse>, Status> {
        let held = self.0.0.lock().unwrap();
        let pod = |(name, devices): (&String, &Vec<(String, String)>)| pods::PodResources {
            name: name.clone(),
            namespace: "default".into(),
            containers: vec![pods::ContainerResources {
                name: "c".into(),
                devices: devices
                    .iter()
                    .map(|(resource, id)| pods::ContainerDevices {
                        resource_name: resource.clone(),
                        device_ids: vec![id.clone()],
                    })
                    .collect(),
            }],
        };
        let pod_resources = held.iter().map(pod).collect();
        Ok(Response::new(pods::ListPodResourcesResponse { pod_resources }))
    }
}

pub(crate) async fn connect(socket: &Path) -> Plugin {
    let endpoint = Endpoint::try_from(format!("unix://{}", socket.display())).unwrap();
    Plugin::new(endpoint.connect().await.unwrap())
}

impl Kubelet {
    /// Starts in a folder, as the kubelet does after a crash as well.
    pub(crate) fn start(root: &Path, checkpoint: &Checkpoint) -> Self {
        Self::start_in(root, checkpoint, true)
    }

    /// Starts; and leaves the plugins' sockets if it does not `empty` the folder.
    pub(crate) fn start_in(root: &Path, checkpoint: &Checkpoint, empty: bool) -> Self {
        let folder = root.join("device-plugins");
        fs::create_dir_all(&folder).unwrap();
        for entry in fs::read_dir(&folder).unwrap().flatten() {
            let own = entry.file_name() == "kubelet.sock";
            if entry.file_type().unwrap().is_socket() && (empty || own) {
                fs::remove_file(entry.path()).unwrap();
            }
        }
        let pod_resources = root.join("pod-resources.sock");
        let _ = fs::remove_file(&pod_resources);
        let state = Arc::new(State {
            folder: folder.clone(),
            ..State::default()
        });
        let listen = |path: &Path| UnixListenerStream::new(UnixListener::bind(path).unwrap());
        let pods = listen(&pod_resources);
        let lister = PodResourcesListerServer::new(Lister(checkpoint.clone()));
        let lister = tokio::spawn(async move {
            Server::builder()
                .add_service(lister)
                .serve_with_incoming(pods)
                .await
                .unwrap();
        });
        let registration = listen(&folder.join("kubelet.sock"));
        let service = api::registration_server::RegistrationServer::new(Registration(state.clone()));
        let server = tokio::spawn(async move {
            Server::builder()
                .add_service(service)
                .serve_with_incoming(registration)
                .await
                .unwrap();
        });
        Self {
            folder,
            pod_resources,
            checkpoint: checkpoint.clone(),
            state,
            servers: vec![lister, server],
        }
    }

    /// Ends at once. Its sockets stay behind.
    pub(crate) fn kill(self) {
        drop(self);
    }

    /// Registrations fail (or not any more).
    pub(crate) fn refuse(&self, refuse: bool) {
        *self.state.refuse.lock().unwrap() = refuse;
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.state.known.lock().unwrap()
    }

    pub(crate) fn resource(&self, name: &str) -> Known {
        self.known().get(name).cloned().unwrap_or_default()
    }

    /// The devices that pods may be given, or those that may not.
    pub(crate) fn devices(&self, resource: &str, health: &str) -> Vec<String> {
        let known = self.resource(resource);
        let of = known
            .devices
            .values()
            .filter(|device| device.health == health && !known.gone);
        of.map(|device| device.id.clone()).collect()
    }

    /// Hangs up on all plugins, and is there as before.
    pub(crate) fn hang_up(&self) {
        self.state
            .calls
            .lock()
            .unwrap()
            .drain(..)
            .for_each(|call| call.abort());
    }

    /// A pod comes: what it may have, what of that is preferred, and that is allocated.
    pub(crate) async fn admit(
        &self,
        pod: &str,
        resource: &str,
        count: usize,
    ) -> Result<api::ContainerAllocateResponse, Status> {
        let held: BTreeSet<String> = {
            let pods = self.checkpoint.0.lock().unwrap();
            pods.values().flatten().map(|(_, id)| id.clone()).collect()
        };
        let free: Vec<_> = self
            .devices(resource, "Healthy")
            .into_iter()
            .filter(|id| !held.contains(id))
            .collect();
        if free.len() < count {
            return Err(Status::resource_exhausted(format!(
                "{resource}: {} of {count}",
                free.len()
            )));
        }
        let mut plugin = connect(&self.folder.join(self.resource(resource).endpoint)).await;
        let asked = api::ContainerPreferredAllocationRequest {
            available_device_i_ds: free.clone(),
            must_include_device_i_ds: Vec::new(),
            allocation_size: i32::try_from(count).unwrap(),
        };
        let preferred = plugin.get_preferred_allocation(api::PreferredAllocationRequest {
            container_requests: vec![asked],
        });
        let preferred = preferred
            .await?
            .into_inner()
            .container_responses
            .remove(0)
            .device_i_ds;
        assert_eq!(preferred.len(), count);
        assert!(
            preferred.iter().all(|id| free.contains(id)),
            "{preferred:?} of {free:?}"
        );
        let answer = allocate(&mut plugin, &preferred).await?;
        let devices = preferred
            .into_iter()
            .map(|id| (resource.to_owned(), id))
            .collect();
        self.checkpoint.0.lock().unwrap().insert(pod.into(), devices);
        Ok(answer)
    }

    /// The pod is gone.
    pub(crate) fn remove(&self, pod: &str) {
        self.checkpoint.0.lock().unwrap().remove(pod);
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.servers.iter().for_each(JoinHandle::abort);
        self.state
            .calls
            .lock()
            .unwrap()
            .iter()
            .for_each(JoinHandle::abort);
    }
}

pub(crate) async fn allocate(
    plugin: &mut Plugin,
    ids: &[String],
) -> Result<api::ContainerAllocateResponse, Status> {
    let container_requests = vec![api::ContainerAllocateRequest {
        devices_i_ds: ids.to_vec(),
    }];
    let answer = plugin
        .allocate(api::AllocateRequest { container_requests })
        .await?;
    Ok(answer.into_inner().container_responses.remove(0))
}
