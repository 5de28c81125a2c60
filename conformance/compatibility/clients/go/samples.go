package main

import (
	"context"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func pointer[T any](value T) *T { return &value }

func podSpec() corev1.PodSpec {
	return corev1.PodSpec{Containers: []corev1.Container{{
		Name: "c", Image: "example.com/i",
		Ports:     []corev1.ContainerPort{{ContainerPort: 80}},
		Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m")}},
	}}}
}

func template() corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}, Spec: podSpec()}
}

func selector() *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}
}

func jobTemplate() corev1.PodTemplateSpec {
	t := template()
	t.Spec.RestartPolicy = corev1.RestartPolicyNever
	return t
}

func claim() corev1.PersistentVolumeClaimSpec {
	return corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
	}
}

func sample[T object, L runtime.Object](c client[T, L], o T) func(context.Context) error {
	return func(ctx context.Context) error { return use(ctx, c, o, types.StrategicMergePatchType) }
}

// samples has one object of each kind that lives as objects usually do. Namespaces need a controller to go, flow schemas have one in
// every API server, and what is not stored does not live.
func (s *session) samples() map[string]func(context.Context) error {
	core, apps := s.typed.CoreV1(), s.typed.AppsV1()
	webhook := admissionv1.WebhookClientConfig{URL: pointer("https://127.0.0.1:9/none")}
	none := pointer(admissionv1.SideEffectClassNone)
	rules := &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
		Operations: []admissionv1.OperationType{admissionv1.Create},
		Rule:       admissionv1.Rule{APIGroups: []string{"example.com"}, APIVersions: []string{"v1"}, Resources: []string{"nothings"}},
	}}}}
	return map[string]func(context.Context) error{
		"ConfigMap":      sample(core.ConfigMaps(namespace), &corev1.ConfigMap{Data: map[string]string{"a": "b"}, BinaryData: map[string][]byte{"c": {0, 255}}}),
		"Secret":         sample(core.Secrets(namespace), &corev1.Secret{StringData: map[string]string{"a": "b"}}),
		"ServiceAccount": sample(core.ServiceAccounts(namespace), &corev1.ServiceAccount{}),
		"Pod":            sample(core.Pods(namespace), &corev1.Pod{Spec: podSpec()}),
		"PodTemplate":    sample(core.PodTemplates(namespace), &corev1.PodTemplate{Template: template()}),
		"Node":           sample(core.Nodes(), &corev1.Node{}),
		"Endpoints":      sample(core.Endpoints(namespace), &corev1.Endpoints{Subsets: []corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{{IP: "10.0.0.1"}}, Ports: []corev1.EndpointPort{{Port: 80}}}}}),
		"LimitRange": sample(core.LimitRanges(namespace), &corev1.LimitRange{Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{
			{Type: corev1.LimitTypePersistentVolumeClaim, Max: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("2Gi")}}}}}),
		"ResourceQuota":         sample(core.ResourceQuotas(namespace), &corev1.ResourceQuota{Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"count/nothings.example.com": resource.MustParse("5")}}}),
		"PersistentVolumeClaim": sample(core.PersistentVolumeClaims(namespace), &corev1.PersistentVolumeClaim{Spec: claim()}),
		"PersistentVolume": sample(core.PersistentVolumes(), &corev1.PersistentVolume{Spec: corev1.PersistentVolumeSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
			PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/tmp"}}}}),
		"ReplicationController": sample(core.ReplicationControllers(namespace), &corev1.ReplicationController{Spec: corev1.ReplicationControllerSpec{Template: pointer(template())}}),
		"Event": sample(core.Events(namespace), &corev1.Event{InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: "p", Namespace: namespace}, Reason: "Tested", Type: "Normal",
			FirstTimestamp: metav1.Now().Rfc3339Copy()}),
		"Deployment":         sample(apps.Deployments(namespace), &appsv1.Deployment{Spec: appsv1.DeploymentSpec{Selector: selector(), Template: template()}}),
		"ReplicaSet":         sample(apps.ReplicaSets(namespace), &appsv1.ReplicaSet{Spec: appsv1.ReplicaSetSpec{Selector: selector(), Template: template()}}),
		"StatefulSet":        sample(apps.StatefulSets(namespace), &appsv1.StatefulSet{Spec: appsv1.StatefulSetSpec{Selector: selector(), Template: template(), ServiceName: "s"}}),
		"DaemonSet":          sample(apps.DaemonSets(namespace), &appsv1.DaemonSet{Spec: appsv1.DaemonSetSpec{Selector: selector(), Template: template()}}),
		"ControllerRevision": sample(apps.ControllerRevisions(namespace), &appsv1.ControllerRevision{Data: runtime.RawExtension{Raw: []byte(`{"a":[1,"b"]}`)}, Revision: 1}),
		"Job":                sample(s.typed.BatchV1().Jobs(namespace), &batchv1.Job{Spec: batchv1.JobSpec{Template: jobTemplate(), Suspend: pointer(true)}}),
		"CronJob":            sample(s.typed.BatchV1().CronJobs(namespace), &batchv1.CronJob{Spec: batchv1.CronJobSpec{Schedule: "0 0 1 1 *", JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: jobTemplate()}}}}),
		"HorizontalPodAutoscaler v2": sample(s.typed.AutoscalingV2().HorizontalPodAutoscalers(namespace), &autoscalingv2.HorizontalPodAutoscaler{Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "d"}, MaxReplicas: 3}}),
		"Lease":         sample(s.typed.CoordinationV1().Leases(namespace), &coordinationv1.Lease{Spec: coordinationv1.LeaseSpec{HolderIdentity: pointer("me"), RenewTime: pointer(metav1.NowMicro())}}),
		"EndpointSlice": sample(s.typed.DiscoveryV1().EndpointSlices(namespace), &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1"}}}}),
		"Ingress": sample(s.typed.NetworkingV1().Ingresses(namespace), &networkingv1.Ingress{Spec: networkingv1.IngressSpec{DefaultBackend: &networkingv1.IngressBackend{
			Service: &networkingv1.IngressServiceBackend{Name: "s", Port: networkingv1.ServiceBackendPort{Number: 80}}}}}),
		"IngressClass": sample(s.typed.NetworkingV1().IngressClasses(), &networkingv1.IngressClass{Spec: networkingv1.IngressClassSpec{Controller: "example.com/c"}}),
		"NetworkPolicy": sample(s.typed.NetworkingV1().NetworkPolicies(namespace), &networkingv1.NetworkPolicy{Spec: networkingv1.NetworkPolicySpec{Ingress: []networkingv1.NetworkPolicyIngressRule{{
			Ports: []networkingv1.NetworkPolicyPort{{Port: pointer(intstr.FromString("http"))}}}}}}),
		"PodDisruptionBudget": sample(s.typed.PolicyV1().PodDisruptionBudgets(namespace), &policyv1.PodDisruptionBudget{Spec: policyv1.PodDisruptionBudgetSpec{Selector: selector(), MinAvailable: pointer(intstr.FromString("50%"))}}),
		"Role":                sample(s.typed.RbacV1().Roles(namespace), &rbacv1.Role{Rules: []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods"}}}}),
		"RoleBinding": sample(s.typed.RbacV1().RoleBindings(namespace), &rbacv1.RoleBinding{RoleRef: rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "Role", Name: "r"},
			Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: "default", Namespace: namespace}}}),
		"ClusterRole":        sample(s.typed.RbacV1().ClusterRoles(), &rbacv1.ClusterRole{Rules: []rbacv1.PolicyRule{{Verbs: []string{"get"}, NonResourceURLs: []string{"/x"}}}}),
		"ClusterRoleBinding": sample(s.typed.RbacV1().ClusterRoleBindings(), &rbacv1.ClusterRoleBinding{RoleRef: rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "ClusterRole", Name: "r"}}),
		"StorageClass":       sample(s.typed.StorageV1().StorageClasses(), &storagev1.StorageClass{Provisioner: "example.com/p"}),
		"CSIDriver":          sample(s.typed.StorageV1().CSIDrivers(), &storagev1.CSIDriver{}),
		"CSINode":            sample(s.typed.StorageV1().CSINodes(), &storagev1.CSINode{Spec: storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{{Name: "example.com", NodeID: "n"}}}}),
		"CSIStorageCapacity": sample(s.typed.StorageV1().CSIStorageCapacities(namespace), &storagev1.CSIStorageCapacity{StorageClassName: "c", Capacity: pointer(resource.MustParse("1Gi"))}),
		"VolumeAttachment": sample(s.typed.StorageV1().VolumeAttachments(), &storagev1.VolumeAttachment{Spec: storagev1.VolumeAttachmentSpec{Attacher: "example.com", NodeName: "n",
			Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: pointer("v")}}}),
		"VolumeAttributesClass": sample(s.typed.StorageV1().VolumeAttributesClasses(), &storagev1.VolumeAttributesClass{DriverName: "example.com", Parameters: map[string]string{"a": "b"}}),
		"PriorityClass":         sample(s.typed.SchedulingV1().PriorityClasses(), &schedulingv1.PriorityClass{Value: 5}),
		"RuntimeClass":          sample(s.typed.NodeV1().RuntimeClasses(), &nodev1.RuntimeClass{Handler: "h"}),
		"ValidatingWebhookConfiguration": sample(s.typed.AdmissionregistrationV1().ValidatingWebhookConfigurations(), &admissionv1.ValidatingWebhookConfiguration{
			Webhooks: []admissionv1.ValidatingWebhook{{Name: "a.example.com", ClientConfig: webhook, SideEffects: none, AdmissionReviewVersions: []string{"v1"}}}}),
		"MutatingWebhookConfiguration": sample(s.typed.AdmissionregistrationV1().MutatingWebhookConfigurations(), &admissionv1.MutatingWebhookConfiguration{
			Webhooks: []admissionv1.MutatingWebhook{{Name: "a.example.com", ClientConfig: webhook, SideEffects: none, AdmissionReviewVersions: []string{"v1"}}}}),
		"ValidatingAdmissionPolicy": sample(s.typed.AdmissionregistrationV1().ValidatingAdmissionPolicies(), &admissionv1.ValidatingAdmissionPolicy{Spec: admissionv1.ValidatingAdmissionPolicySpec{
			MatchConstraints: rules, Validations: []admissionv1.Validation{{Expression: "true"}}}}),
		"ValidatingAdmissionPolicyBinding": sample(s.typed.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings(), &admissionv1.ValidatingAdmissionPolicyBinding{
			Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{PolicyName: "p", ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny}}}),
		"CertificateSigningRequest": sample(s.typed.CertificatesV1().CertificateSigningRequests(), request()),
		"DeviceClass":               sample(s.typed.ResourceV1().DeviceClasses(), &resourcev1.DeviceClass{}),
		"ResourceClaim":             sample(s.typed.ResourceV1().ResourceClaims(namespace), &resourcev1.ResourceClaim{}),
		"ResourceClaimTemplate": sample(s.typed.ResourceV1().ResourceClaimTemplates(namespace), &resourcev1.ResourceClaimTemplate{Spec: resourcev1.ResourceClaimTemplateSpec{
			Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{Name: "r", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "c"}}}}}}}),
		"ResourceSlice": sample(s.typed.ResourceV1().ResourceSlices(), &resourcev1.ResourceSlice{Spec: resourcev1.ResourceSliceSpec{Driver: "example.com", NodeName: pointer("n"),
			Pool: resourcev1.ResourcePool{Name: "n", ResourceSliceCount: 1}}}),
	}
}

// autoscaler at v1 shares its storage with v2, so it is used on its own.
func autoscaler() *autoscalingv1.HorizontalPodAutoscaler {
	return &autoscalingv1.HorizontalPodAutoscaler{Spec: autoscalingv1.HorizontalPodAutoscalerSpec{
		ScaleTargetRef: autoscalingv1.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "d"}, MaxReplicas: 3}}
}

func request() *certificatesv1.CertificateSigningRequest {
	return &certificatesv1.CertificateSigningRequest{Spec: certificatesv1.CertificateSigningRequestSpec{
		Request: signingRequest(), SignerName: "example.com/signer", Usages: []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth}}}
}
