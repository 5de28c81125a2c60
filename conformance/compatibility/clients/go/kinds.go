package main

import (
	"context"
	"fmt"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// object is what every kind is.
type object interface {
	metav1.Object
	runtime.Object
}

// client is what the typed clients of all kinds have in common.
type client[T object, L runtime.Object] interface {
	Create(context.Context, T, metav1.CreateOptions) (T, error)
	Update(context.Context, T, metav1.UpdateOptions) (T, error)
	Delete(context.Context, string, metav1.DeleteOptions) error
	DeleteCollection(context.Context, metav1.DeleteOptions, metav1.ListOptions) error
	Get(context.Context, string, metav1.GetOptions) (T, error)
	List(context.Context, metav1.ListOptions) (L, error)
	Watch(context.Context, metav1.ListOptions) (watch.Interface, error)
	Patch(context.Context, string, types.PatchType, []byte, metav1.PatchOptions, ...string) (T, error)
}

// use lives through the life of an object with one client, under a watch that must tell exactly that.
func use[T object, L runtime.Object](ctx context.Context, c client[T, L], o T, patches ...types.PatchType) error {
	o.SetName("sample")
	o.SetLabels(map[string]string{"clients": "sample"})
	selected := metav1.ListOptions{LabelSelector: "clients=sample"}
	list, err := c.List(ctx, selected)
	if err != nil {
		return fmt.Errorf("list: %w", err)
	}
	accessor, err := meta.ListAccessor(list)
	if err != nil {
		return err
	}
	start := accessor.GetResourceVersion()
	watching, err := c.Watch(ctx, metav1.ListOptions{LabelSelector: selected.LabelSelector, ResourceVersion: start})
	if err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	defer watching.Stop()
	var expected []string
	note := func(what watch.EventType, version string) { expected = append(expected, string(what)+" "+version) }

	if _, err = c.Create(ctx, o, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}); err != nil {
		return fmt.Errorf("create, dry run: %w", err)
	}
	created, err := c.Create(ctx, o, metav1.CreateOptions{FieldManager: "clients", FieldValidation: metav1.FieldValidationStrict})
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	note(watch.Added, created.GetResourceVersion())
	if _, err = c.Create(ctx, o, metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create again: %v", err)
	}
	got, err := c.Get(ctx, "sample", metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("get: %w", err)
	}
	if !equality.Semantic.DeepEqual(created, got) {
		return fmt.Errorf("created %v and got %v", created, got)
	}
	got.SetAnnotations(map[string]string{"update": "1"})
	updated, err := c.Update(ctx, got, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("update: %w", err)
	}
	note(watch.Modified, updated.GetResourceVersion())
	stale := got.DeepCopyObject().(T)
	stale.SetAnnotations(map[string]string{"update": "2"})
	if _, err = c.Update(ctx, stale, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		return fmt.Errorf("update of what has changed: %v", err)
	}
	for _, kind := range append(patches, types.MergePatchType, types.JSONPatchType) {
		body := fmt.Sprintf(`{"metadata": {"annotations": {"patch": %q}}}`, kind)
		if kind == types.JSONPatchType {
			body = fmt.Sprintf(`[{"op": "replace", "path": "/metadata/annotations/patch", "value": %q}]`, kind)
		}
		patched, err := c.Patch(ctx, "sample", kind, []byte(body), metav1.PatchOptions{})
		if err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
		if patched.GetAnnotations()["patch"] != string(kind) {
			return fmt.Errorf("%s: %v", kind, patched)
		}
		note(watch.Modified, patched.GetResourceVersion())
		updated = patched
	}
	list, err = c.List(ctx, selected)
	if err != nil {
		return fmt.Errorf("list: %w", err)
	}
	items, err := metaList(list)
	if err != nil || len(items) != 1 || !equality.Semantic.DeepEqual(items[0], runtime.Object(updated)) {
		return fmt.Errorf("listed %v and not %v, %v", items, updated, err)
	}
	if len(updated.GetFinalizers()) > 0 {
		// Controllers take them off, and there are none here.
		freed, err := c.Patch(ctx, "sample", types.MergePatchType, []byte(`{"metadata": {"finalizers": null}}`), metav1.PatchOptions{})
		if err != nil {
			return fmt.Errorf("finalizers: %w", err)
		}
		note(watch.Modified, freed.GetResourceVersion())
	}
	uid := types.UID("another")
	if err = c.Delete(ctx, "sample", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}}); !apierrors.IsConflict(err) {
		return fmt.Errorf("delete of another: %v", err)
	}
	now, background := int64(0), metav1.DeletePropagationBackground
	if err = c.Delete(ctx, "sample", metav1.DeleteOptions{GracePeriodSeconds: &now, PropagationPolicy: &background}); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	expected = append(expected, string(watch.Deleted)+" ")
	if _, err = c.Get(ctx, "sample", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		return fmt.Errorf("get of what is deleted: %v", err)
	}
	o.SetName("other")
	if _, err = c.Create(ctx, o, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create another: %w", err)
	}
	expected = append(expected, string(watch.Added)+" ")
	if len(updated.GetFinalizers()) > 0 {
		if _, err = c.Patch(ctx, "other", types.MergePatchType, []byte(`{"metadata": {"finalizers": null}}`), metav1.PatchOptions{}); err != nil {
			return fmt.Errorf("finalizers: %w", err)
		}
		expected = append(expected, string(watch.Modified)+" ")
	}
	if err = c.DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &now, PropagationPolicy: &background}, selected); err != nil {
		return fmt.Errorf("deletecollection: %w", err)
	}
	expected = append(expected, string(watch.Deleted)+" ")
	return told(watching, expected)
}

// told compares the events of a watch with those that are due, each as its type and, where that is known, its version.
func told(watching watch.Interface, expected []string) error {
	last := uint64(0)
	for n := 0; n < len(expected); n++ {
		due := expected[n]
		select {
		case event, open := <-watching.ResultChan():
			if !open {
				return fmt.Errorf("the watch ended before event %d, %s", n, due)
			}
			o, ok := event.Object.(metav1.Object)
			if !ok {
				return fmt.Errorf("event %d is %v", n, event)
			}
			version, err := strconv.ParseUint(o.GetResourceVersion(), 10, 64)
			if err != nil || version <= last {
				return fmt.Errorf("event %d has version %s after %d", n, o.GetResourceVersion(), last)
			}
			last = version
			if is, will := event.Type == watch.Modified, strings.HasPrefix(due, string(watch.Deleted)); is && will && o.GetDeletionTimestamp() != nil {
				// Graceful deletion says so first.
				n--
			} else if found := string(event.Type) + " " + o.GetResourceVersion(); !strings.HasPrefix(found, due) {
				return fmt.Errorf("event %d is %s, not %s: %v", n, found, due, o)
			}
		case <-time.After(20 * time.Second):
			return fmt.Errorf("event %d, %s, does not come", n, due)
		}
	}
	return nil
}

func metaList(list runtime.Object) (items []runtime.Object, err error) {
	err = meta.EachListItem(list, func(o runtime.Object) error { items = append(items, o); return nil })
	return items, err
}

// kinds uses each kind with its typed client, and sees that all went as protobuf.
func (s *session) kinds(ctx context.Context) error {
	_, before := s.wire.since(0)
	var group sync.WaitGroup
	var mu sync.Mutex
	var failures []string
	for name, run := range s.samples() {
		group.Add(1)
		go func() {
			defer group.Done()
			if err := run(ctx); err != nil {
				mu.Lock()
				defer mu.Unlock()
				failures = append(failures, fmt.Sprintf("%s: %v", name, err))
			}
		}()
	}
	group.Wait()
	if len(failures) > 0 {
		sort.Strings(failures)
		return fmt.Errorf("%s", strings.Join(failures, "\n"))
	}
	exchanges, _ := s.wire.since(before)
	for _, e := range exchanges {
		if !strings.HasPrefix(e.received, runtime.ContentTypeProtobuf) {
			return fmt.Errorf("%s %s was answered with %s", e.method, e.path, e.received)
		}
		if (e.method == "POST" || e.method == "PUT") && e.sent != runtime.ContentTypeProtobuf {
			return fmt.Errorf("%s %s was sent as %s", e.method, e.path, e.sent)
		}
	}
	return nil
}
