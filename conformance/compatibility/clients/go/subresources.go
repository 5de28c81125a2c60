package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// signingRequest is one of PEM for a key that nobody keeps.
func signingRequest() []byte {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "somebody"}}, key)
	if err != nil {
		panic(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

// subresources uses what typed clients have beside the usual verbs.
func (s *session) subresources(ctx context.Context) error {
	core := s.typed.CoreV1()
	if err := use(ctx, s.typed.AutoscalingV1().HorizontalPodAutoscalers(namespace), autoscaler()); err != nil {
		return fmt.Errorf("autoscaling/v1: %w", err)
	}
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "sample"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
	service, err := core.Services(namespace).Create(ctx, service, metav1.CreateOptions{})
	if err != nil || service.Spec.ClusterIP == "" {
		return fmt.Errorf("a service: %v, %w", service, err)
	}
	service.Spec.Ports[0].Port = 81
	if service, err = core.Services(namespace).Update(ctx, service, metav1.UpdateOptions{}); err != nil || service.Spec.Ports[0].Port != 81 {
		return fmt.Errorf("a service is updated: %v, %w", service, err)
	}
	if err = core.Services(namespace).Delete(ctx, "sample", metav1.DeleteOptions{}); err != nil {
		return err
	}

	pods := core.Pods(namespace)
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}
	if node, err = core.Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil {
		return err
	}
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	if node, err = core.Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{}); err != nil || len(node.Status.Conditions) != 1 {
		return fmt.Errorf("a node's status: %v, %w", node, err)
	}
	if _, err = pods.Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "bound"}, Spec: podSpec()}, metav1.CreateOptions{}); err != nil {
		return err
	}
	binding := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "bound"}, Target: corev1.ObjectReference{Kind: "Node", Name: "n"}}
	if err = pods.Bind(ctx, binding, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	pod, err := pods.Get(ctx, "bound", metav1.GetOptions{})
	if err != nil || pod.Spec.NodeName != "n" {
		return fmt.Errorf("the bound pod: %v, %w", pod, err)
	}
	if err = pods.Bind(ctx, binding, metav1.CreateOptions{}); !apierrors.IsConflict(err) {
		return fmt.Errorf("bind again: %v", err)
	}
	pod.Status.Phase = corev1.PodRunning
	if pod, err = pods.UpdateStatus(ctx, pod, metav1.UpdateOptions{}); err != nil || pod.Status.Phase != corev1.PodRunning {
		return fmt.Errorf("the pod's status: %v, %w", pod, err)
	}
	pod.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "e", Image: "i"}}}
	if pod, err = pods.UpdateEphemeralContainers(ctx, "bound", pod, metav1.UpdateOptions{}); err != nil || len(pod.Spec.EphemeralContainers) != 1 {
		return fmt.Errorf("ephemeral containers: %v, %w", pod, err)
	}
	if err = pods.EvictV1(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "bound"}}); err != nil {
		return fmt.Errorf("evict: %w", err)
	}
	zero := int64(0)
	if err = pods.Delete(ctx, "bound", metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil && !apierrors.IsNotFound(err) {
		return err
	}

	token, err := core.ServiceAccounts(namespace).CreateToken(ctx, "default", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil || strings.Count(token.Status.Token, ".") != 2 {
		return fmt.Errorf("a token: %v, %w", token, err)
	}
	review := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token.Status.Token}}
	review, err = s.typed.AuthenticationV1().TokenReviews().Create(ctx, review, metav1.CreateOptions{})
	if err != nil || review.Status.User.Username != "system:serviceaccount:clients:default" {
		return fmt.Errorf("the token's review: %v, %w", review, err)
	}
	access := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
		ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "get", Resource: "pods"}}}
	access, err = s.typed.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, access, metav1.CreateOptions{})
	if err != nil || !access.Status.Allowed {
		return fmt.Errorf("access: %v, %w", access, err)
	}
	requests := s.typed.CertificatesV1().CertificateSigningRequests()
	asked := request()
	asked.Name = "approved"
	if asked, err = requests.Create(ctx, asked, metav1.CreateOptions{}); err != nil {
		return err
	}
	asked.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Tested"}}
	if asked, err = requests.UpdateApproval(ctx, "approved", asked, metav1.UpdateOptions{}); err != nil || len(asked.Status.Conditions) != 1 {
		return fmt.Errorf("approval: %v, %w", asked, err)
	}
	space, err := core.Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "clients-"}}, metav1.CreateOptions{})
	if err != nil || !strings.HasPrefix(space.Name, "clients-") || len(space.Name) == len("clients-") {
		return fmt.Errorf("a generated name: %v, %w", space, err)
	}
	if err = core.Namespaces().Delete(ctx, space.Name, metav1.DeleteOptions{}); err != nil {
		return err
	}
	if space, err = core.Namespaces().Get(ctx, space.Name, metav1.GetOptions{}); err != nil || space.Status.Phase != corev1.NamespaceTerminating {
		return fmt.Errorf("a namespace that goes: %v, %w", space, err)
	}
	space.Spec.Finalizers = nil
	if _, err = core.Namespaces().Finalize(ctx, space, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("finalize: %w", err)
	}
	if _, err = core.Namespaces().Get(ctx, space.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		return fmt.Errorf("a namespace that is gone: %v", err)
	}
	return nil
}
