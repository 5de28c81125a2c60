//! `--feature-gates`: the features of v1.37 that its API server knows, and whether they are on.
//!
//! What is on is always on and what is off always off here, so a setting is accepted if it says just that; a component started
//! with upstream's own settings starts, and one that asks for what is absent is told so.

use std::str::FromStr;

use apimachinery::go_bool;

/// Gates that are on by default.
#[rustfmt::skip]
const ON: &[&str] = &[
    "APIResponseCompression", "APIServerIdentity", "AggregatedDiscoveryRemoveBetaType", "AllowParsingUserUIDFromCertAuth",
    "AllowServiceExternalIPs", "AllowUnsafeMalformedObjectDeletion", "AtomicFIFO", "AuthorizePodWebsocketUpgradeCreatePermission",
    "CPUManagerPolicyBetaOptions", "CPUManagerPolicyOptions", "CRDObservedGenerationTracking", "CRDValidationRatcheting",
    "CSIServiceAccountTokenSecrets", "ClearingNominatedNodeNameAfterBinding", "ClientsAllowCARotation", "ClientsAllowTLSCacheGC",
    "ClusterTrustBundle", "ClusterTrustBundleProjection", "ComponentFlagz", "ComponentStatusz", "ConcurrentWatchObjectDecode",
    "ConstrainedImpersonation", "ContainerCheckpoint", "ContainerRestartRules", "ContextualLogging", "CustomCPUCFSQuotaPeriod",
    "CustomResourceFieldSelectors", "DRAAdminAccess", "DRAConsumableCapacity", "DRADeviceBindingConditions", "DRADeviceTaintRules",
    "DRADeviceTaints", "DRAExtendedResource", "DRAPartitionableDevices", "DRAPrioritizedList", "DRAResourceClaimDeviceStatus",
    "DRAResourceClaimGranularStatusAuthorization", "DRASchedulerFilterTimeout", "DeclarativeValidation", "DeclarativeValidationBeta",
    "DeploymentReplicaSetTerminatingReplicas", "DetectCacheInconsistency", "DisableAllocatorDualWrite",
    "DisableCPUQuotaWithExclusiveCPUs", "DisableNodeKubeProxyVersion", "DynamicResourceAllocation", "EnvFiles", "EtcdRangeStream",
    "ExcludeAdmissionWebhookVirtualResources", "ExecProbeTimeout", "ExtendWebSocketsToKubelet", "ExternalServiceAccountTokenSigner",
    "GracefulNodeShutdown", "GracefulNodeShutdownBasedOnPodPriority", "HPAConfigurableTolerance", "HPAGeneration",
    "HPAOptimizedSelectorStore", "HPAScaleToZero", "HostnameOverride", "HugepageAwareEviction", "ImageMaximumGCAge", "ImageVolume",
    "InOrderInformers", "InOrderInformersBatchProcess", "InPlacePodLevelResourcesVerticalScaling", "InPlacePodVerticalScaling",
    "InPlacePodVerticalScalingInitContainers", "InformerResourceVersion", "JobManagedBy", "KubeProxyIPVS", "KubeletCgroupDriverFromCRI",
    "KubeletCrashLoopBackOffMax", "KubeletEnsureSecretPulledImages", "KubeletFineGrainedAuthz", "KubeletInUserNamespace", "KubeletPSI",
    "KubeletPodResourcesDynamicResources", "KubeletPodResourcesGet", "KubeletPodResourcesListUseActivePods", "KubeletSeparateDiskGC",
    "KubeletServiceAccountTokenForCredentialProviders", "KubeletTracing", "ListFromCacheSnapshot", "LoggingBetaOptions",
    "ManifestBasedAdmissionControlConfig", "MatchLabelKeysInPodAffinity", "MatchLabelKeysInPodTopologySpread",
    "MatchLabelKeysInPodTopologySpreadSelectorMerge", "MaxUnavailableStatefulSet", "MemoryQoS", "MultiCIDRServiceAllocator",
    "MutableCSINodeAllocatableCount", "MutablePodResourcesForSuspendedJobs", "MutableSchedulingDirectivesForSuspendedJobs",
    "MutatingAdmissionPolicy", "NFTablesNetlink", "NFTablesProxyMode", "NativeHistograms", "NodeControllerLeaseCircuitBreaker",
    "NodeDeclaredFeatures", "NodeInclusionPolicyInPodTopologySpread", "NodeLogQuery", "NodeSwap", "NominatedNodeNameForExpectation",
    "OpenAPIEnums", "OpportunisticBatching", "PLEGOnDemandRelist", "PersistentVolumeClaimUnusedSinceTime", "PodCertificateRequest",
    "PodDeletionCost", "PodLevelResources", "PodLevelResourcesFixDefaulting", "PodLevelResourcesFixKubeletQOSClass",
    "PodObservedGenerationTracking", "PodReadyToStartContainersCondition", "PodSchedulingReadiness", "PodTopologyLabelsAdmission",
    "PodsAPI", "PortForwardWebsockets", "PreferSameTrafficDistribution", "ProcMountType", "RecoverVolumeExpansionFailure",
    "RecursiveReadOnlyMounts", "RelaxedEnvironmentVariableValidation", "RelaxedServiceNameValidation", "ReloadKubeletClientCAFile",
    "ReloadKubeletServerCertificateFile", "RemoteRequestHeaderUID", "ResourceHealthStatus", "ResourceHealthStatusMessage",
    "RestartAllContainersOnContainerExits", "RotateKubeletServerCertificate", "SELinuxChangePolicy", "SELinuxMount",
    "SELinuxMountReadWriteOncePod", "SchedulerAsyncPreemption", "SchedulerPopFromBackoffQ", "SeparateTaintEvictionController",
    "ServiceAccountNodeAudienceRestriction", "ServiceAccountTokenJTI", "ServiceAccountTokenNodeBinding",
    "ServiceAccountTokenNodeBindingValidation", "ServiceAccountTokenPodNodeInfo", "ServiceCIDRStatusFieldWiping",
    "SizeBasedListCostEstimate", "StaleControllerConsistencyDaemonSet", "StaleControllerConsistencyHPA", "StaleControllerConsistencyJob",
    "StaleControllerConsistencyReplicaSet", "StaleControllerConsistencyStatefulSet", "StatefulSetSemanticRevisionComparison",
    "StorageCapacityScoring", "StorageNamespaceIndex", "StorageVersionHash", "StorageVersionMigrator", "StrictIPCIDRValidation",
    "StructuredAuthenticationConfigurationEgressSelector", "StructuredAuthenticationConfigurationJWKSMetrics", "SupplementalGroupsPolicy",
    "SystemdWatchdog", "TokenRequestServiceAccountUIDValidation", "TopologyManagerPolicyBetaOptions", "TopologyManagerPolicyOptions",
    "TranslateStreamCloseWebsocketRequests", "UnauthenticatedHTTP2DOSMitigation", "UnknownVersionInteroperabilityProxy",
    "UnlockWhileProcessingFIFO", "UserNamespacesSupport", "VolumeAttributesClass", "VolumeLimitScaling",
    "WatchCacheInitializationPostStartHook", "WatchList", "WatchListClient", "WatchListCompression", "WebhookRoundTripLoadBalancing",
    "WinDSR", "WinOverlay", "WindowsGracefulNodeShutdown",
];

/// Gates that are off by default.
#[rustfmt::skip]
const OFF: &[&str] = &[
    "APIServerWebhookAuthenticationToken", "APIServingWithRoutine", "AllowDNSOnlyNodeCSR",
    "AllowInsecureKubeletCertificateSigningRequests", "AllowOverwriteTerminationGracePeriodSeconds", "AtomicWriteVolumeUserFields",
    "CBORServingAndStorage", "CPUManagerPolicyAlphaOptions", "CRIListStreaming", "CSIVolumeHealth",
    "ChangeContainerStatusOnKubeletRestart", "ClientsAllowCBOR", "ClientsPreferCBOR",
    "CloudControllerManagerWatchBasedRoutesReconciliation", "CloudControllerManagerWebhook", "CompositePodGroup",
    "ConsistentListFromCacheSkipTimeoutFallback", "ContainerStopSignals", "ControllerManagerReleaseLeaderElectionLockOnExit",
    "CoordinatedLeaderElection", "CrossNamespaceVolumeDataSource", "DRADerivedAttributes", "DRADeviceCompatibilityGroups",
    "DRAFractionalCapacityRange", "DRAListTypeAttributes", "DRANodeAllocatableResources", "DRAOptionalNodeOperations",
    "DRAPartitionableDevicesType", "DRAResourcePoolStatus", "DRAWorkloadResourceClaims", "DeclarativeValidationTakeover",
    "DefaultPodSysctls", "EmptyDirVolumeMode", "EventedPLEG", "EvictionRequestAPI", "GRPCContainerProbeTLS", "GenericWorkload",
    "GitRepoVolumeDriver", "H2CContainerProbe", "ImageVolumeWithDigest", "InPlacePodVerticalScalingExclusiveCPUs",
    "InPlacePodVerticalScalingExclusiveMemory", "InPlacePodVerticalScalingMemoryBackedVolumes",
    "InPlacePodVerticalScalingSchedulerPreemption", "InterPodAffinityHostnameFastPath", "KMSv1", "KubeProxyNFTablesLocalhostNodePorts",
    "KubeletAllocatedPodsEndpoint", "KubeletRegistrationGetOnExistsOnly", "LocalStorageCapacityIsolationFSQuotaMonitoring",
    "LoggingAlphaOptions", "MutablePVNodeAffinity", "NodeLifecycleConditions", "PodAndContainerStatsFromCRI", "PodGroupPreemptionPolicy",
    "PodLevelResourceManagers", "PodLogsQuerySplitStreams", "QOSReserved", "ReduceDefaultCrashLoopBackOffDecay",
    "RuntimeClassInImageCriApi", "SchedulerAsyncAPICalls", "SchedulerPreQueueingHints", "SeparateCacheWatchRPC", "ShardedListAndWatch",
    "StatefulSetRecreateStrategy", "StorageVersionAPI", "TaintTolerationComparisonOperators", "TopologyAwareWorkloadScheduling",
    "TopologyManagerPolicyAlphaOptions", "UserNamespacesHostNetworkSupport", "VolumeBindMountOptions", "WindowsCPUAndMemoryAffinity",
    "WindowsHostNetwork", "WorkloadWithJob",
];

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
            _ if ON.contains(&name) => true,
            _ if OFF.contains(&name) => false,
            _ => return Err(format!("unrecognized feature gate: {name}")),
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
    fn no_gate_is_both_on_and_off() {
        assert!(ON.iter().all(|name| !OFF.contains(name)));
    }
}
