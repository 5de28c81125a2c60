package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
)

// unnamed is a dynamic client in the form that typed clients have.
type unnamed struct{ dynamic.ResourceInterface }

func (u unnamed) Create(ctx context.Context, o *unstructured.Unstructured, options metav1.CreateOptions) (*unstructured.Unstructured, error) {
	return u.ResourceInterface.Create(ctx, o, options)
}
func (u unnamed) Update(ctx context.Context, o *unstructured.Unstructured, options metav1.UpdateOptions) (*unstructured.Unstructured, error) {
	return u.ResourceInterface.Update(ctx, o, options)
}
func (u unnamed) Delete(ctx context.Context, name string, options metav1.DeleteOptions) error {
	return u.ResourceInterface.Delete(ctx, name, options)
}
func (u unnamed) Get(ctx context.Context, name string, options metav1.GetOptions) (*unstructured.Unstructured, error) {
	return u.ResourceInterface.Get(ctx, name, options)
}

var widgets = schema.GroupVersionResource{Group: "clients.example.com", Version: "v1", Resource: "widgets"}

func content(apiVersion, kind string, more map[string]any) *unstructured.Unstructured {
	o := map[string]any{"apiVersion": apiVersion, "kind": kind, "metadata": map[string]any{}}
	for key, value := range more {
		o[key] = value
	}
	return &unstructured.Unstructured{Object: o}
}

// dynamicClient uses built-in and custom kinds without their types.
func (s *session) dynamicClient(ctx context.Context) error {
	pod := map[string]any{"metadata": map[string]any{"labels": map[string]any{"a": "b"}}, "spec": map[string]any{"containers": []any{map[string]any{"name": "c", "image": "i"}}}}
	matching := map[string]any{"matchLabels": map[string]any{"a": "b"}}
	workload := map[string]any{"spec": map[string]any{"selector": matching, "template": pod}}
	for _, o := range []*unstructured.Unstructured{
		content("v1", "ConfigMap", map[string]any{"data": map[string]any{"a": "b"}}),
		content("v1", "Pod", map[string]any{"spec": map[string]any{"containers": []any{map[string]any{"name": "c", "image": "i"}}}}),
		content("apps/v1", "Deployment", workload),
		content("apps/v1", "DaemonSet", workload),
		content("rbac.authorization.k8s.io/v1", "ClusterRole", map[string]any{"rules": []any{}}),
		content("storage.k8s.io/v1", "StorageClass", map[string]any{"provisioner": "example.com/p"}),
		content("scheduling.k8s.io/v1", "PriorityClass", map[string]any{"value": int64(7)}),
	} {
		mapping, err := s.mapper.RESTMapping(o.GroupVersionKind().GroupKind())
		if err != nil {
			return err
		}
		var client dynamic.ResourceInterface = s.dynamic.Resource(mapping.Resource)
		if mapping.Scope.Name() == "namespace" {
			client = s.dynamic.Resource(mapping.Resource).Namespace(namespace)
		}
		if err := use[*unstructured.Unstructured, *unstructured.UnstructuredList](ctx, unnamed{client}, o, types.StrategicMergePatchType); err != nil {
			return fmt.Errorf("%s: %w", o.GetKind(), err)
		}
		applied, err := client.Apply(ctx, "sample", named(o, "sample"), metav1.ApplyOptions{FieldManager: "clients"})
		if err != nil || len(applied.GetManagedFields()) != 1 {
			return fmt.Errorf("%s, apply: %v, %w", o.GetKind(), applied, err)
		}
		if err := client.Delete(ctx, "sample", metav1.DeleteOptions{}); err != nil {
			return err
		}
	}

	definitions := s.dynamic.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	status := map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}
	spec := map[string]any{"type": "object", "properties": map[string]any{"size": map[string]any{"type": "integer", "maximum": int64(10), "default": int64(1)}}}
	definition := content("apiextensions.k8s.io/v1", "CustomResourceDefinition", map[string]any{"spec": map[string]any{
		"group": widgets.Group, "scope": "Namespaced", "names": map[string]any{"plural": "widgets", "kind": "Widget"},
		"versions": []any{map[string]any{"name": "v1", "served": true, "storage": true, "subresources": map[string]any{"status": map[string]any{}},
			"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "properties": map[string]any{"spec": spec, "status": status}}}}}}})
	if _, err := definitions.Create(ctx, named(definition, "widgets.clients.example.com"), metav1.CreateOptions{}); err != nil {
		return err
	}
	client := s.dynamic.Resource(widgets).Namespace(namespace)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := client.List(ctx, metav1.ListOptions{}); err == nil {
			break
		} else if !apierrors.IsNotFound(err) || time.Now().After(deadline) {
			return err
		}
	}
	widget := content("clients.example.com/v1", "Widget", map[string]any{"spec": map[string]any{}})
	// Custom kinds have no strategic merge.
	if err := use[*unstructured.Unstructured, *unstructured.UnstructuredList](ctx, unnamed{client}, widget); err != nil {
		return fmt.Errorf("a custom kind: %w", err)
	}
	made, err := client.Create(ctx, named(widget, "made"), metav1.CreateOptions{})
	if err != nil {
		return err
	}
	if size, _, _ := unstructured.NestedInt64(made.Object, "spec", "size"); size != 1 {
		return fmt.Errorf("the default is %d", size)
	}
	if err = unstructured.SetNestedField(made.Object, "well", "status", "is"); err != nil {
		return err
	}
	if made, err = client.UpdateStatus(ctx, made, metav1.UpdateOptions{}); err != nil || made.GetGeneration() != 1 {
		return fmt.Errorf("a status: %v, %w", made, err)
	}
	if err = unstructured.SetNestedField(made.Object, int64(11), "spec", "size"); err != nil {
		return err
	}
	if _, err = client.Update(ctx, made, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec.size") {
		return fmt.Errorf("what is too large: %v", err)
	}
	return nil
}

func named(o *unstructured.Unstructured, name string) *unstructured.Unstructured {
	o = o.DeepCopy()
	o.SetName(name)
	o.SetResourceVersion("")
	o.SetUID("")
	o.SetManagedFields(nil)
	return o
}

// metadataClient sees the metadata of all kinds alike, and nothing else.
func (s *session) metadataClient(ctx context.Context) error {
	_, before := s.wire.since(0)
	for resource, o := range map[schema.GroupVersionResource]*unstructured.Unstructured{
		{Version: "v1", Resource: "configmaps"}: content("v1", "ConfigMap", map[string]any{"data": map[string]any{"a": "b"}}),
		{Version: "v1", Resource: "secrets"}:    content("v1", "Secret", map[string]any{"data": map[string]any{"a": "Yg=="}}),
		widgets:                                 content("clients.example.com/v1", "Widget", map[string]any{"spec": map[string]any{}}),
	} {
		client := s.metadata.Resource(resource).Namespace(namespace)
		list, err := client.List(ctx, metav1.ListOptions{Limit: 500})
		if err != nil {
			return err
		}
		watching, err := client.Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
		if err != nil {
			return err
		}
		made, err := s.dynamic.Resource(resource).Namespace(namespace).Create(ctx, named(o, "metadata"), metav1.CreateOptions{})
		if err != nil {
			return err
		}
		got, err := client.Get(ctx, "metadata", metav1.GetOptions{})
		if err != nil || got.ResourceVersion != made.GetResourceVersion() || got.UID != made.GetUID() {
			return fmt.Errorf("%v: %v, %w", resource, got, err)
		}
		patched, err := client.Patch(ctx, "metadata", types.MergePatchType, []byte(`{"metadata": {"labels": {"m": "1"}}}`), metav1.PatchOptions{})
		if err != nil || patched.Labels["m"] != "1" {
			return fmt.Errorf("%v, patch: %v, %w", resource, patched, err)
		}
		if err := client.Delete(ctx, "metadata", metav1.DeleteOptions{}); err != nil {
			return err
		}
		err = told(watching, []string{string(watch.Added) + " " + made.GetResourceVersion(), string(watch.Modified) + " " + patched.ResourceVersion, string(watch.Deleted) + " "})
		watching.Stop()
		if err != nil {
			return fmt.Errorf("%v: %w", resource, err)
		}
	}
	exchanges, _ := s.wire.since(before)
	for _, e := range exchanges {
		asked := strings.Contains(e.accept, "as=PartialObjectMetadata")
		if asked && e.method != "DELETE" && !strings.HasPrefix(e.received, runtime.ContentTypeProtobuf) {
			return fmt.Errorf("%s %s was answered with %s", e.method, e.path, e.received)
		}
	}
	return nil
}
