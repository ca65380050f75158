//! What the kubelet asks of one resource.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{fs, io};

use tokio::net::UnixListener;
use tokio::sync::{oneshot, watch};
use tokio_stream::wrappers::{UnixListenerStream, WatchStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};

use super::api::v1beta1::device_plugin_server::{DevicePlugin, DevicePluginServer};
use super::api::v1beta1::{
    AllocateRequest, AllocateResponse, ContainerPreferredAllocationResponse, Device, DevicePluginOptions,
    Empty, HEALTHY, ListAndWatchResponse, NumaNode, PreStartContainerRequest, PreStartContainerResponse,
    PreferredAllocationRequest, PreferredAllocationResponse, TopologyInfo, UNHEALTHY,
};
use super::assign::Devices;
use super::give::{Folders, GiveError, give};
use super::pool::{Kind, Pool, place_folder};
use super::prefer::prefer;

/// One resource: shared by its servers and the one who knows its devices.
pub(super) struct Resource {
    pub(super) pool: Pool,
    /// `None`: nothing comes any more, streams end.
    devices: watch::Sender<Option<Arc<Devices>>>,
    folders: Folders,
    cdi: bool,
    watchers: Arc<AtomicUsize>,
}

impl Resource {
    pub(super) fn new(pool: Pool, folders: Folders, cdi: bool) -> Arc<Self> {
        let devices = watch::Sender::new(Some(Arc::default()));
        Arc::new(Self {
            pool,
            devices,
            folders,
            cdi,
            watchers: Arc::default(),
        })
    }

    /// Tells whoever listens, if it is something new.
    pub(super) fn publish(&self, devices: &Devices) {
        self.devices.send_if_modified(|now| {
            let new = now.as_deref() != Some(devices);
            if new {
                *now = Some(Arc::new(devices.clone()));
            }
            new
        });
    }

    /// Ends all streams.
    pub(super) fn end(&self) {
        self.devices.send_replace(None);
    }

    /// How many listen.
    pub(super) fn watchers(&self) -> usize {
        self.watchers.load(Ordering::Acquire)
    }

    /// What the kubelet is told with the registration.
    pub(super) fn options() -> DevicePluginOptions {
        DevicePluginOptions {
            pre_start_required: false,
            get_preferred_allocation_available: true,
        }
    }

    fn now(&self) -> Arc<Devices> {
        self.devices.borrow().clone().unwrap_or_default()
    }

    fn list(&self, devices: &Devices) -> ListAndWatchResponse {
        let told = |(id, device): (&String, &super::Device)| {
            let node = device.numa().filter(|_| !self.pool.exclude_topology);
            let node = node.map(|node| NumaNode { id: node.into() });
            Device {
                id: id.clone(),
                health: if device.healthy() { HEALTHY } else { UNHEALTHY }.into(),
                topology: node.map(|node| TopologyInfo { nodes: vec![node] }),
            }
        };
        ListAndWatchResponse {
            devices: devices.iter().map(told).collect(),
        }
    }
}

/// Counts a stream while it is there.
struct Watching(Arc<AtomicUsize>);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

/// tonic's server of a resource.
struct Service(Arc<Resource>);

#[tonic::async_trait]
impl DevicePlugin for Service {
    async fn get_device_plugin_options(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<DevicePluginOptions>, Status> {
        Ok(Response::new(Resource::options()))
    }

    type ListAndWatchStream = Pin<Box<dyn Stream<Item = Result<ListAndWatchResponse, Status>> + Send>>;

    async fn list_and_watch(&self, _: Request<Empty>) -> Result<Response<Self::ListAndWatchStream>, Status> {
        let resource = self.0.clone();
        resource.watchers.fetch_add(1, Ordering::AcqRel);
        let watching = Watching(resource.watchers.clone());
        let lists = WatchStream::new(resource.devices.subscribe());
        let lists = lists.take_while(Option::is_some).map(move |devices| {
            let _counted = &watching;
            Ok(resource.list(&devices.unwrap_or_default()))
        });
        Ok(Response::new(Box::pin(lists)))
    }

    async fn get_preferred_allocation(
        &self,
        request: Request<PreferredAllocationRequest>,
    ) -> Result<Response<PreferredAllocationResponse>, Status> {
        let devices = self.0.now();
        let policy = self.0.pool.policy;
        let containers = request.into_inner().container_requests.into_iter().map(|of| {
            let size = usize::try_from(of.allocation_size).unwrap_or(0);
            let (available, must) = (&of.available_device_i_ds, &of.must_include_device_i_ds);
            ContainerPreferredAllocationResponse {
                device_i_ds: prefer(&devices, available, must, size, policy),
            }
        });
        Ok(Response::new(PreferredAllocationResponse {
            container_responses: containers.collect(),
        }))
    }

    async fn allocate(
        &self,
        request: Request<AllocateRequest>,
    ) -> Result<Response<AllocateResponse>, Status> {
        let resource = &self.0;
        let devices = resource.now();
        let mut answer = AllocateResponse::default();
        for container in request.into_inner().container_requests {
            let ids = &container.devices_i_ds;
            let given = give(&resource.pool, &devices, ids, &resource.folders, resource.cdi);
            let given = given.map_err(|error| {
                tracing::warn!("a container gets nothing: {error}");
                match error {
                    GiveError::Unknown { .. } => Status::not_found(error.to_string()),
                    GiveError::Unhealthy { .. } => Status::failed_precondition(error.to_string()),
                }
            })?;
            if matches!(resource.pool.kind, Kind::VhostUser { .. }) {
                for id in ids {
                    let folder = place_folder(&resource.folders.places, &resource.pool, id);
                    let made = fs::create_dir_all(&folder);
                    made.map_err(|error| {
                        Status::internal(format!("the folder {folder:?} could not be made: {error}"))
                    })?;
                }
            }
            tracing::info!(
                "a container gets {} of {}",
                ids.join(", "),
                resource.pool.resource()
            );
            answer.container_responses.push(given);
        }
        Ok(Response::new(answer))
    }

    async fn pre_start_container(
        &self,
        _: Request<PreStartContainerRequest>,
    ) -> Result<Response<PreStartContainerResponse>, Status> {
        Ok(Response::new(PreStartContainerResponse {}))
    }
}

/// A resource's socket and the server behind it.
pub(super) struct Serving {
    path: PathBuf,
    inode: (u64, u64),
    _stop: oneshot::Sender<()>,
}

impl Serving {
    /// The name of a resource's socket.
    pub(super) fn name(pool: &Pool) -> String {
        format!("clearway-{}.sock", pool.in_files())
    }

    /// Serves at `folder`; a socket that an earlier run left is replaced. Ends when this is dropped, once its streams have.
    pub(super) fn start(resource: &Arc<Resource>, folder: &Path) -> io::Result<Self> {
        let path = folder.join(Self::name(&resource.pool));
        if fs::symlink_metadata(&path).is_ok_and(|file| file.file_type().is_socket()) {
            fs::remove_file(&path)?;
        }
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        let inode = inode(&path).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let (_stop, stopped) = oneshot::channel::<()>();
        let service = DevicePluginServer::new(Service(resource.clone()));
        let name = resource.pool.resource();
        tokio::spawn(async move {
            let connections = UnixListenerStream::new(listener);
            let server = tonic::transport::Server::builder().add_service(service);
            let until = async move { _ = stopped.await };
            if let Err(error) = server.serve_with_incoming_shutdown(connections, until).await {
                tracing::warn!("the server of {name} ended: {error}");
            }
        });
        Ok(Self { path, inode, _stop })
    }

    /// Whether the socket is still ours.
    pub(super) fn is_there(&self) -> bool {
        inode(&self.path) == Some(self.inode)
    }

    /// Removes the socket, if it is ours.
    pub(super) fn remove(&self) {
        if self.is_there() {
            _ = fs::remove_file(&self.path);
        }
    }
}

fn inode(path: &Path) -> Option<(u64, u64)> {
    let file = fs::symlink_metadata(path).ok()?;
    Some((file.dev(), file.ino()))
}
