//! `--feature-gates`: the features of v1.37 that its API server knows, and whether they are on.
//!
//! What is on is always on and what is off always off here, so a setting is accepted if it says just that; a component started
//! with upstream's own settings starts, and one that asks for what is absent is told so.

use std::str::FromStr;

use apimachinery::go_bool;
use apimachinery::metrics::{head, pairs, sample};

/// How far a feature has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Alpha,
    Beta,
    General,
    Deprecated,
}

impl Stage {
    /// As metrics tell it: what everybody has got has no stage any more.
    fn as_str(self) -> &'static str {
        match self {
            Stage::Alpha => "ALPHA",
            Stage::Beta => "BETA",
            Stage::General => "",
            Stage::Deprecated => "DEPRECATED",
        }
    }
}

/// Gates that are all on, or all off, by default.
struct Gates {
    on: bool,
    stage: Stage,
    names: &'static [&'static str],
}

/// Every gate.
#[rustfmt::skip]
static GATES: &[Gates] = &[
    Gates { on: true, stage: Stage::General, names: &[
        "AllowServiceExternalIPs", "CPUManagerPolicyOptions", "CRDValidationRatcheting", "CSIServiceAccountTokenSecrets",
        "ClusterTrustBundle", "ClusterTrustBundleProjection", "CustomCPUCFSQuotaPeriod", "CustomResourceFieldSelectors",
        "DRAAdminAccess", "DRADeviceTaintRules", "DRADeviceTaints", "DRAExtendedResource", "DRAPrioritizedList",
        "DRAResourceClaimDeviceStatus", "DeclarativeValidation", "DisableAllocatorDualWrite", "DynamicResourceAllocation",
        "ExecProbeTimeout", "ExternalServiceAccountTokenSigner", "HPAConfigurableTolerance", "HostnameOverride", "ImageMaximumGCAge",
        "ImageVolume", "InOrderInformers", "InPlacePodVerticalScaling", "InPlacePodVerticalScalingInitContainers",
        "InformerResourceVersion", "JobManagedBy", "KubeletCgroupDriverFromCRI", "KubeletFineGrainedAuthz", "KubeletPSI",
        "KubeletPodResourcesDynamicResources", "KubeletPodResourcesGet", "KubeletTracing", "MatchLabelKeysInPodAffinity",
        "MultiCIDRServiceAllocator", "MutableCSINodeAllocatableCount", "MutatingAdmissionPolicy", "NFTablesProxyMode",
        "NodeDeclaredFeatures", "NodeInclusionPolicyInPodTopologySpread", "NodeLogQuery", "NodeSwap", "PLEGOnDemandRelist",
        "PodCertificateRequest", "PodObservedGenerationTracking", "PodReadyToStartContainersCondition", "PodSchedulingReadiness",
        "PreferSameTrafficDistribution", "ProcMountType", "RecoverVolumeExpansionFailure", "RecursiveReadOnlyMounts",
        "RelaxedEnvironmentVariableValidation", "RelaxedServiceNameValidation", "SELinuxChangePolicy", "SELinuxMount",
        "SELinuxMountReadWriteOncePod", "SeparateTaintEvictionController", "ServiceAccountTokenJTI", "ServiceAccountTokenNodeBinding",
        "ServiceAccountTokenNodeBindingValidation", "ServiceAccountTokenPodNodeInfo", "StorageVersionMigrator",
        "SupplementalGroupsPolicy", "SystemdWatchdog", "TopologyManagerPolicyOptions", "UserNamespacesSupport", "VolumeAttributesClass",
        "WatchCacheInitializationPostStartHook", "WinDSR", "WinOverlay",
    ] },
    Gates { on: true, stage: Stage::Beta, names: &[
        "APIResponseCompression", "APIServerIdentity", "AllowParsingUserUIDFromCertAuth", "AllowUnsafeMalformedObjectDeletion",
        "AtomicFIFO", "AuthorizePodWebsocketUpgradeCreatePermission", "CPUManagerPolicyBetaOptions", "CRDObservedGenerationTracking",
        "ClearingNominatedNodeNameAfterBinding", "ClientsAllowCARotation", "ClientsAllowTLSCacheGC", "ComponentFlagz",
        "ComponentStatusz", "ConcurrentWatchObjectDecode", "ConstrainedImpersonation", "ContainerCheckpoint", "ContainerRestartRules",
        "ContextualLogging", "DRAConsumableCapacity", "DRADeviceBindingConditions", "DRAPartitionableDevices",
        "DRAResourceClaimGranularStatusAuthorization", "DRASchedulerFilterTimeout", "DeclarativeValidationBeta",
        "DeploymentReplicaSetTerminatingReplicas", "DetectCacheInconsistency", "EnvFiles", "EtcdRangeStream",
        "ExcludeAdmissionWebhookVirtualResources", "ExtendWebSocketsToKubelet", "GracefulNodeShutdown",
        "GracefulNodeShutdownBasedOnPodPriority", "HPAGeneration", "HPAOptimizedSelectorStore", "HPAScaleToZero",
        "HugepageAwareEviction", "InOrderInformersBatchProcess", "InPlacePodLevelResourcesVerticalScaling", "KubeletCrashLoopBackOffMax",
        "KubeletEnsureSecretPulledImages", "KubeletInUserNamespace", "KubeletSeparateDiskGC",
        "KubeletServiceAccountTokenForCredentialProviders", "ListFromCacheSnapshot", "LoggingBetaOptions",
        "ManifestBasedAdmissionControlConfig", "MatchLabelKeysInPodTopologySpread", "MatchLabelKeysInPodTopologySpreadSelectorMerge",
        "MaxUnavailableStatefulSet", "MemoryQoS", "MutablePodResourcesForSuspendedJobs", "MutableSchedulingDirectivesForSuspendedJobs",
        "NFTablesNetlink", "NativeHistograms", "NodeControllerLeaseCircuitBreaker", "NominatedNodeNameForExpectation", "OpenAPIEnums",
        "OpportunisticBatching", "PersistentVolumeClaimUnusedSinceTime", "PodDeletionCost", "PodLevelResources",
        "PodLevelResourcesFixDefaulting", "PodLevelResourcesFixKubeletQOSClass", "PodTopologyLabelsAdmission", "PodsAPI",
        "PortForwardWebsockets", "ReloadKubeletClientCAFile", "ReloadKubeletServerCertificateFile", "RemoteRequestHeaderUID",
        "ResourceHealthStatus", "ResourceHealthStatusMessage", "RestartAllContainersOnContainerExits", "RotateKubeletServerCertificate",
        "SchedulerAsyncPreemption", "SchedulerPopFromBackoffQ", "ServiceAccountNodeAudienceRestriction", "SizeBasedListCostEstimate",
        "StaleControllerConsistencyDaemonSet", "StaleControllerConsistencyHPA", "StaleControllerConsistencyJob",
        "StaleControllerConsistencyReplicaSet", "StaleControllerConsistencyStatefulSet", "StatefulSetSemanticRevisionComparison",
        "StorageCapacityScoring", "StorageVersionHash", "StrictIPCIDRValidation", "StructuredAuthenticationConfigurationEgressSelector",
        "StructuredAuthenticationConfigurationJWKSMetrics", "TokenRequestServiceAccountUIDValidation",
        "TopologyManagerPolicyBetaOptions", "TranslateStreamCloseWebsocketRequests", "UnauthenticatedHTTP2DOSMitigation",
        "UnknownVersionInteroperabilityProxy", "UnlockWhileProcessingFIFO", "VolumeLimitScaling", "WatchList", "WatchListClient",
        "WatchListCompression", "WebhookRoundTripLoadBalancing", "WindowsGracefulNodeShutdown",
    ] },
    Gates { on: true, stage: Stage::Deprecated, names: &[
        "AggregatedDiscoveryRemoveBetaType", "DisableCPUQuotaWithExclusiveCPUs", "DisableNodeKubeProxyVersion", "KubeProxyIPVS",
        "KubeletPodResourcesListUseActivePods", "ServiceCIDRStatusFieldWiping", "StorageNamespaceIndex",
    ] },
    Gates { on: false, stage: Stage::Beta, names: &[
        "CoordinatedLeaderElection", "DRAFractionalCapacityRange", "DRAWorkloadResourceClaims", "GenericWorkload",
        "LocalStorageCapacityIsolationFSQuotaMonitoring", "PodAndContainerStatsFromCRI", "PodLevelResourceManagers",
        "SchedulerAsyncAPICalls",
    ] },
    Gates { on: false, stage: Stage::Alpha, names: &[
        "APIServerWebhookAuthenticationToken", "APIServingWithRoutine", "AtomicWriteVolumeUserFields", "CBORServingAndStorage",
        "CPUManagerPolicyAlphaOptions", "CRIListStreaming", "CSIVolumeHealth", "ClientsAllowCBOR", "ClientsPreferCBOR",
        "CloudControllerManagerWatchBasedRoutesReconciliation", "CloudControllerManagerWebhook", "CompositePodGroup",
        "ConsistentListFromCacheSkipTimeoutFallback", "ContainerStopSignals", "ControllerManagerReleaseLeaderElectionLockOnExit",
        "CrossNamespaceVolumeDataSource", "DRADerivedAttributes", "DRADeviceCompatibilityGroups", "DRAListTypeAttributes",
        "DRANodeAllocatableResources", "DRAOptionalNodeOperations", "DRAPartitionableDevicesType", "DRAResourcePoolStatus",
        "DefaultPodSysctls", "EmptyDirVolumeMode", "EventedPLEG", "EvictionRequestAPI", "GRPCContainerProbeTLS", "H2CContainerProbe",
        "ImageVolumeWithDigest", "InPlacePodVerticalScalingExclusiveCPUs", "InPlacePodVerticalScalingExclusiveMemory",
        "InPlacePodVerticalScalingMemoryBackedVolumes", "InPlacePodVerticalScalingSchedulerPreemption",
        "InterPodAffinityHostnameFastPath", "KubeProxyNFTablesLocalhostNodePorts", "KubeletAllocatedPodsEndpoint", "LoggingAlphaOptions",
        "MutablePVNodeAffinity", "NodeLifecycleConditions", "PodGroupPreemptionPolicy", "PodLogsQuerySplitStreams", "QOSReserved",
        "ReduceDefaultCrashLoopBackOffDecay", "RuntimeClassInImageCriApi", "SchedulerPreQueueingHints", "ShardedListAndWatch",
        "StatefulSetRecreateStrategy", "StorageVersionAPI", "TaintTolerationComparisonOperators", "TopologyAwareWorkloadScheduling",
        "TopologyManagerPolicyAlphaOptions", "UserNamespacesHostNetworkSupport", "VolumeBindMountOptions", "WindowsCPUAndMemoryAffinity",
        "WorkloadWithJob",
    ] },
    Gates { on: false, stage: Stage::Deprecated, names: &[
        "AllowDNSOnlyNodeCSR", "AllowInsecureKubeletCertificateSigningRequests", "AllowOverwriteTerminationGracePeriodSeconds",
        "ChangeContainerStatusOnKubeletRestart", "DeclarativeValidationTakeover", "GitRepoVolumeDriver", "KMSv1",
        "KubeletRegistrationGetOnExistsOnly", "SeparateCacheWatchRPC", "WindowsHostNetwork",
    ] },
];

/// Every gate, and whether it is on.
fn gates() -> impl Iterator<Item = (&'static str, Stage, bool)> {
    let of_many = [(ALL_ALPHA, Stage::Alpha, false), (ALL_BETA, Stage::Beta, false)];
    GATES.iter().flat_map(|gates| gates.names.iter().map(|name| (*name, gates.stage, gates.on))).chain(of_many)
}

/// Writes which features are on (Prometheus text format).
pub fn render(out: &mut String) {
    let name = "kubernetes_feature_enabled";
    head(out, name, "gauge", "[BETA] Whether a feature is on, by its stage; without one, it is there for good.");
    let mut gates: Vec<_> = gates().collect();
    gates.sort_unstable_by_key(|(name, ..)| *name);
    for (gate, stage, is_on) in gates {
        sample(out, name, &pairs(&["name", "stage"], &[gate, stage.as_str()]), f64::from(u8::from(is_on)));
    }
}

/// Gates of many: all that are alpha or beta and not set otherwise.
const ALL_ALPHA: &str = "AllAlpha";
const ALL_BETA: &str = "AllBeta";

/// A setting that changes nothing.
#[derive(Clone, Debug)]
pub struct Setting;

impl FromStr for Setting {
    type Err = String;

    fn from_str(text: &str) -> Result<Setting, String> {
        let (name, value) = text.split_once('=').ok_or_else(|| format!("missing bool value for {text}"))?;
        let (name, value) = (name.trim(), value.trim());
        // The settings of all components may be given to each; those for others are theirs.
        let name = name.strip_prefix("kube:").unwrap_or(name);
        let wanted = go_bool::parse(value).map_err(|error| format!("invalid value of {name}={value}, err: {error}"))?;
        let is_on = match name {
            ALL_ALPHA => false,
            // Even `false` would mean something: some betas are on unless set as a whole.
            ALL_BETA => return Err(format!("cannot set feature gate AllBeta to {wanted}: here every beta is at its default")),
            _ => {
                let known = gates().find(|(gate, ..)| *gate == name);
                known.map(|(.., is_on)| is_on).ok_or_else(|| format!("unrecognized feature gate: {name}"))?
            }
        };
        if wanted == is_on { Ok(Setting) } else { Err(format!("cannot set feature gate {name} to {wanted}: here it is always {is_on}")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_gate_is_accepted_at_its_default_alone() {
        for text in
            ["MutatingAdmissionPolicy=true", "kube:AllAlpha=false", "APIServerWebhookAuthenticationToken=false", " APIServerIdentity = 1 "]
        {
            assert!(text.parse::<Setting>().is_ok(), "{text}");
        }
        let cases = [
            ("AllAlpha=true", "cannot set feature gate AllAlpha to true: here it is always false"),
            ("APIServerIdentity=false", "cannot set feature gate APIServerIdentity to false: here it is always true"),
            ("AllBeta=false", "cannot set feature gate AllBeta to false: here every beta is at its default"),
            ("Nonsense=true", "unrecognized feature gate: Nonsense"),
            ("APIServerIdentity", "missing bool value for APIServerIdentity"),
            ("APIServerIdentity=yes", "invalid value of APIServerIdentity=yes, err: strconv.ParseBool: parsing \"yes\": invalid syntax"),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<Setting>().unwrap_err(), expected, "{text}");
        }
    }

    #[test]
    fn every_gate_is_told_once() {
        let mut text = String::new();
        render(&mut text);
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(lines.len(), gates().count());
        let names: std::collections::BTreeSet<&str> = gates().map(|(name, ..)| name).collect();
        assert_eq!(names.len(), lines.len());
        for line in [
            "kubernetes_feature_enabled{name=\"AllAlpha\",stage=\"ALPHA\"} 0",
            "kubernetes_feature_enabled{name=\"DynamicResourceAllocation\",stage=\"\"} 1",
            "kubernetes_feature_enabled{name=\"WatchList\",stage=\"BETA\"} 1",
            "kubernetes_feature_enabled{name=\"KMSv1\",stage=\"DEPRECATED\"} 0",
        ] {
            assert!(lines.contains(&line), "{line}");
        }
    }
}
