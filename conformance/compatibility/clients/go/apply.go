package main

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	appsapply "k8s.io/client-go/applyconfigurations/apps/v1"
	autoscalingapply "k8s.io/client-go/applyconfigurations/autoscaling/v1"
	coreapply "k8s.io/client-go/applyconfigurations/core/v1"
	metaapply "k8s.io/client-go/applyconfigurations/meta/v1"
)

func (s *session) createScalable(ctx context.Context, resource schema.GroupResource) (err error) {
	meta := metav1.ObjectMeta{Name: "scaled"}
	apps := s.typed.AppsV1()
	switch resource.Resource {
	case "deployments":
		_, err = apps.Deployments(namespace).Create(ctx, &appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Selector: selector(), Template: template()}}, metav1.CreateOptions{})
	case "replicasets":
		_, err = apps.ReplicaSets(namespace).Create(ctx, &appsv1.ReplicaSet{ObjectMeta: meta, Spec: appsv1.ReplicaSetSpec{Selector: selector(), Template: template()}}, metav1.CreateOptions{})
	case "statefulsets":
		_, err = apps.StatefulSets(namespace).Create(ctx, &appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{Selector: selector(), Template: template()}}, metav1.CreateOptions{})
	case "replicationcontrollers":
		controller := &corev1.ReplicationController{ObjectMeta: meta, Spec: corev1.ReplicationControllerSpec{Template: &corev1.PodTemplateSpec{}}}
		*controller.Spec.Template = template()
		_, err = s.typed.CoreV1().ReplicationControllers(namespace).Create(ctx, controller, metav1.CreateOptions{})
	}
	return err
}

// apply shares an object between two managers with apply configurations.
func (s *session) apply(ctx context.Context) error {
	deployments := s.typed.AppsV1().Deployments(namespace)
	mine := metav1.ApplyOptions{FieldManager: "mine"}
	container := func(image string) *coreapply.ContainerApplyConfiguration {
		return coreapply.Container().WithName("c").WithImage(image).
			WithEnv(coreapply.EnvVar().WithName("A").WithValue("1"), coreapply.EnvVar().WithName("B").WithValue("2"))
	}
	configuration := func(image string) *appsapply.DeploymentApplyConfiguration {
		return appsapply.Deployment("applied", namespace).WithLabels(map[string]string{"a": "b"}).WithSpec(appsapply.DeploymentSpec().
			WithReplicas(2).WithSelector(metaapply.LabelSelector().WithMatchLabels(map[string]string{"a": "b"})).
			WithTemplate(coreapply.PodTemplateSpec().WithLabels(map[string]string{"a": "b"}).WithSpec(coreapply.PodSpec().WithContainers(container(image)))))
	}
	created, err := deployments.Apply(ctx, configuration("example.com/one"), mine)
	if err != nil {
		return err
	}
	again, err := deployments.Apply(ctx, configuration("example.com/one"), mine)
	if err != nil || again.ResourceVersion != created.ResourceVersion {
		return fmt.Errorf("the same again made %v of %v, %w", again, created, err)
	}
	theirs := metav1.ApplyOptions{FieldManager: "theirs"}
	other := appsapply.Deployment("applied", namespace).WithSpec(appsapply.DeploymentSpec().WithReplicas(5).
		WithTemplate(coreapply.PodTemplateSpec().WithSpec(coreapply.PodSpec().
			WithContainers(coreapply.Container().WithName("c").WithEnv(coreapply.EnvVar().WithName("C").WithValue("3")),
				coreapply.Container().WithName("d").WithImage("example.com/d")))))
	if _, err = deployments.Apply(ctx, other, theirs); !apierrors.IsConflict(err) {
		return fmt.Errorf("an apply over another's field: %v", err)
	}
	causes := err.(apierrors.APIStatus).Status().Details.Causes
	if len(causes) != 1 || causes[0].Type != metav1.CauseTypeFieldManagerConflict || causes[0].Field != ".spec.replicas" {
		return fmt.Errorf("the conflict is %v", causes)
	}
	theirs.Force = true
	forced, err := deployments.Apply(ctx, other, theirs)
	if err != nil || *forced.Spec.Replicas != 5 || len(forced.Spec.Template.Spec.Containers) != 2 || len(forced.Spec.Template.Spec.Containers[0].Env) != 3 {
		return fmt.Errorf("a forced apply: %v, %w", forced, err)
	}
	extracted, err := appsapply.ExtractDeployment(forced, "theirs")
	if err != nil || *extracted.Spec.Replicas != 5 || len(extracted.Spec.Template.Spec.Containers) != 2 || len(extracted.Spec.Template.Spec.Containers[0].Env) != 1 {
		return fmt.Errorf("theirs is %v, %w", extracted, err)
	}
	// What its only owner leaves out goes, and what another owns stays.
	less := configuration("example.com/two")
	less.Labels = nil
	less.Spec.Replicas = nil
	less.Spec.Template.Spec.Containers[0].Env = less.Spec.Template.Spec.Containers[0].Env[:1]
	left, err := deployments.Apply(ctx, less, mine)
	if err != nil || left.Labels != nil || *left.Spec.Replicas != 5 || len(left.Spec.Template.Spec.Containers[0].Env) != 2 {
		return fmt.Errorf("an apply of less: %v, %w", left, err)
	}
	status := appsapply.Deployment("applied", namespace).WithStatus(appsapply.DeploymentStatus().WithObservedGeneration(1).WithReplicas(4))
	withStatus, err := deployments.ApplyStatus(ctx, status, mine)
	if err != nil || withStatus.Status.Replicas != 4 || withStatus.Generation != left.Generation {
		return fmt.Errorf("an apply of status: %v, %w", withStatus, err)
	}
	scaled, err := deployments.ApplyScale(ctx, "applied", autoscalingapply.Scale().WithName("applied").WithNamespace(namespace).
		WithSpec(autoscalingapply.ScaleSpec().WithReplicas(6)), metav1.ApplyOptions{FieldManager: "mine", Force: true})
	if err != nil || scaled.Spec.Replicas != 6 {
		return fmt.Errorf("an apply of scale: %v, %w", scaled, err)
	}
	secret := coreapply.Secret("applied", namespace).WithStringData(map[string]string{"a": "b"})
	if kept, err := s.typed.CoreV1().Secrets(namespace).Apply(ctx, secret, mine); err != nil || string(kept.Data["a"]) != "b" {
		return fmt.Errorf("a secret: %v, %w", kept, err)
	}
	return nil
}
