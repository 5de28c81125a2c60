//! Making the volumes of claims bigger on this node: when they are mounted, and while pods use them. The shell around `expansion`.

use std::time::Duration;

use apimachinery::quantity::Quantity as Amount;
use client::Object;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::Value;
use tokio::time::Instant;

use super::super::persistent::{self, Bound};
use super::super::set_up::Uses;
use super::super::{Failure, Mounted, Shared, message};
use super::expansion::{self, Call, Outcome, Plan, Refusal};
use super::messages::{CapacityRange, EXPAND_VOLUME, Expand};
use super::mount::lock_of;
use super::volume_stats::Place;
use super::wanted::Wanted;

/// A mounted volume is looked at again after so long, at the pod's next sync.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// What is remembered of a claim's volume so that it can grow.
#[derive(Clone, Debug)]
pub struct Growth {
    /// The size that it has on this node; zero if nobody knows.
    size: Amount,
    next_look: Instant,
    /// The driver cannot do it while pods use the volume.
    in_use: bool,
    /// The driver has refused for good.
    failed: bool,
}

impl Growth {
    pub fn is_due(&self, now: Instant) -> bool {
        !self.in_use && self.next_look <= now
    }
}

/// The size that a volume is to have.
fn desired_size(bound: &Bound) -> Amount {
    let capacity = bound.volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref());
    capacity.and_then(|capacity| capacity.get("storage")).and_then(|text| Amount::parse(&text.0).ok()).unwrap_or_default()
}

impl Shared {
    /// Makes a volume that has just been mounted as big as it is to be.
    pub(in crate::volumes) async fn grow_at_mount(
        &self,
        pod: &Pod,
        bound: &Bound,
        wanted: &Wanted<'_>,
        place: &Place,
    ) -> Result<Growth, Failure> {
        let (told, desired) = (expansion::told_size(&bound.claim), desired_size(bound));
        let next_look = Instant::now() + LOOK_EVERY;
        let mut growth = Growth { size: told, next_look, in_use: false, failed: false };
        if growth.size >= desired {
            return Ok(growth);
        }
        if bound.read_only {
            let message = format!("MountVolume.NodeExpandVolume failed for volume {:?} requested read-only file system", wanted.name);
            self.tell_both(pod, &bound.claim, false, &message);
            return Ok(growth);
        }
        let step = match wanted.is_device {
            true => "MapVolume.MarkVolumeAsMounted failed while expanding volume",
            false => "MountVolume.Setup failed while expanding volume",
        };
        let failed = |error| Failure::Operation { step, name: wanted.name.to_owned(), error };
        self.expand(pod, bound, wanted, place, &mut growth, &desired).await.map_err(failed)?;
        Ok(growth)
    }

    /// Looks at a volume that pods use, and makes it bigger if it is to be. What goes wrong is told of the pod, which keeps what it has.
    pub(in crate::volumes) async fn grow(&self, pod: &Pod, volume: &Volume, uses: &Uses, mut mounted: Mounted) -> Mounted {
        let (Some(place), Some(growth)) = (mounted.place.clone(), mounted.growth.as_mut()) else { return mounted };
        growth.next_look = Instant::now() + LOOK_EVERY;
        let (is_mounted, is_device) = (uses.mounted.contains(&volume.name), uses.devices.contains(&volume.name));
        let bound = match persistent::resolve(&self.config.client, pod, volume, is_mounted, is_device).await {
            Ok(bound) => bound,
            Err(error) => {
                tracing::debug!(pod = %pod.key(), volume = volume.name, error, "cannot see whether a volume is to grow");
                return mounted;
            }
        };
        let desired = desired_size(&bound);
        let spec = bound.volume.spec.as_ref();
        let Some((spec, source)) = spec.and_then(|spec| Some((spec, spec.csi.as_ref()?))) else { return mounted };
        if bound.read_only || growth.size.is_zero() || desired <= growth.size {
            return mounted;
        }
        let wanted = Wanted::persistent(bound.volume.name(), spec, source, bound.read_only, is_device);
        if let Err(error) = self.expand(pod, &bound, &wanted, &place, growth, &desired).await {
            let message = format!("NodeExpandVolume.NodeExpandVolume failed for volume {:?} : {error}", wanted.name);
            self.config.recorder.warning(&pod.reference(), "VolumeResizeFailed", message);
        }
        mounted
    }

    fn tell_both(&self, pod: &Pod, claim: &PersistentVolumeClaim, done: bool, message: &str) {
        for about in [pod.reference(), claim.reference()] {
            match done {
                true => self.config.recorder.normal(&about, "FileSystemResizeSuccessful", message.to_owned()),
                false => self.config.recorder.warning(&about, "FileSystemResizeFailed", message.to_owned()),
            }
        }
    }

    async fn expand(
        &self,
        pod: &Pod,
        bound: &Bound,
        wanted: &Wanted<'_>,
        place: &Place,
        growth: &mut Growth,
        desired: &Amount,
    ) -> Result<(), String> {
        let _one_at_a_time = self.csi_locks[lock_of(&wanted.handle)].lock().await;
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.config.client.clone(), bound.claim.namespace());
        let claim = claims.get(bound.claim.name()).await;
        let mut claim = claim.map_err(|error| format!("mountVolume.NodeExpandVolume get PVC failed : {}", message(&error)))?;
        let call = match expansion::plan(&claim, desired, growth.failed) {
            Plan::Finished(size) => {
                growth.size = size;
                return Ok(());
            }
            Plan::NotYet => return Ok(()),
            Plan::Call(call) => call,
        };
        if call.stepwise && !call.is_told {
            claim = patch(&claims, &claim, expansion::in_progress(&claim)).await?;
        }
        let answer = self.ask_to_expand(wanted, place, &call).await;
        match expansion::outcome(&call, &answer) {
            Outcome::Finished { by_driver } => {
                growth.size = call.size.clone();
                if by_driver {
                    let node = &self.config.node_name;
                    let message = format!("MountVolume.NodeExpandVolume succeeded for volume {:?} {node}", wanted.name);
                    self.tell_both(pod, &claim, true, &message);
                }
                if by_driver && !call.is_told {
                    let told = patch(&claims, &claim, expansion::finished(&claim, &call.size)).await;
                    told.map_err(|error| format!("mountVolume.NodeExpandVolume update pvc status failed: {error}"))?;
                }
                Ok(())
            }
            Outcome::InUse => {
                growth.in_use = true;
                tracing::warn!(pod = %pod.key(), volume = wanted.name, ?answer, "a volume cannot grow while it is used");
                Ok(())
            }
            Outcome::Failed { told } => {
                let Err(refusal) = answer else { return Ok(()) };
                if let Some(told) = told {
                    growth.failed = true;
                    let body = expansion::failed(&claim, told, &refusal, Timestamp::now());
                    if let Err(error) = patch(&claims, &claim, body).await {
                        tracing::warn!(pod = %pod.key(), volume = wanted.name, error, "cannot tell a claim that its volume does not grow");
                    }
                }
                Err(refusal.to_string())
            }
        }
    }

    async fn ask_to_expand(&self, wanted: &Wanted<'_>, place: &Place, call: &Call) -> Result<(), Refusal> {
        let driver = self.csi.driver(wanted.driver).map_err(Refusal::NotAsked)?;
        if !driver.capabilities.contains(&EXPAND_VOLUME) {
            return Err(Refusal::NotSupported(wanted.driver.to_owned()));
        }
        let request = Expand {
            volume_id: wanted.handle.clone(),
            volume_path: place.path.display().to_string(),
            capacity_range: Some(CapacityRange { required_bytes: call.size.value(), limit_bytes: 0 }),
            staging_target_path: place.staging.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
            volume_capability: Some(wanted.capability(&driver, None)),
            secrets: self.secret_data(wanted.expand_secret.as_ref()).await.map_err(Refusal::NotAsked)?,
        };
        driver.socket.expand(request).await.map_err(Refusal::Call)
    }
}

/// Patches a claim's status; the claim as it is then.
async fn patch(claims: &Api<PersistentVolumeClaim>, claim: &PersistentVolumeClaim, body: Value) -> Result<PersistentVolumeClaim, String> {
    let patched = claims.patch_status(claim.name(), &PatchParams::default(), &Patch::Merge(body)).await;
    patched.map_err(|error| format!("patchPVCStatus failed to patch PVC {:?}: {}", claim.name(), message(&error)))
}
