package main

import (
	"context"
	"fmt"
	"math/rand"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
)

const (
	writers = 6
	changes = 100
)

// followed is an informer, and what its handlers were told: the same must come out of both.
type followed struct {
	name     string
	path     string
	informer cache.SharedIndexInformer
	mu       sync.Mutex
	told     map[string]string
	wrong    []string
}

func (f *followed) listen() error {
	f.told = map[string]string{}
	version := func(o any) (string, string) {
		if gone, is := o.(cache.DeletedFinalStateUnknown); is {
			o = gone.Obj
		}
		accessor, err := meta.Accessor(o)
		if err != nil {
			return "", err.Error()
		}
		return accessor.GetName(), accessor.GetResourceVersion()
	}
	change := func(o any, known bool, what string) {
		f.mu.Lock()
		defer f.mu.Unlock()
		name, version := version(o)
		if _, is := f.told[name]; is != known {
			f.wrong = append(f.wrong, what+" "+name)
		}
		if what == "delete" {
			delete(f.told, name)
		} else {
			f.told[name] = version
		}
	}
	_, err := f.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { change(o, false, "add") },
		UpdateFunc: func(_, o any) { change(o, true, "update") },
		DeleteFunc: func(o any) { change(o, true, "delete") },
	})
	return err
}

// difference to the server's own state, if there is one.
func (f *followed) difference(server map[string]string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	held := map[string]string{}
	for _, o := range f.informer.GetStore().List() {
		accessor, err := meta.Accessor(o)
		if err != nil {
			return err.Error()
		}
		held[accessor.GetName()] = accessor.GetResourceVersion()
	}
	for what, found := range map[string]map[string]string{"store": held, "handlers": f.told} {
		if len(found) != len(server) {
			return fmt.Sprintf("%s: the %s has %d objects, the server %d", f.name, what, len(found), len(server))
		}
		for name, version := range server {
			if found[name] != version {
				return fmt.Sprintf("%s: %s is at %s in the %s, and at %s", f.name, name, found[name], what, version)
			}
		}
	}
	if len(f.wrong) > 0 {
		return fmt.Sprintf("%s: events that cannot be: %v", f.name, f.wrong)
	}
	return ""
}

// informers of all three clients follow changes, while their watches are cut again and again, and end with what the server has.
func (s *session) informers(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	_, before := s.wire.since(0)
	maps := schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	typed := informers.NewSharedInformerFactoryWithOptions(s.typed, 0, informers.WithNamespace(namespace))
	dynamic := dynamicinformer.NewFilteredDynamicSharedInformerFactory(s.dynamic, 0, namespace, nil)
	metadata := metadatainformer.NewFilteredSharedInformerFactory(s.metadata, 0, namespace, nil)
	all := []*followed{
		{name: "typed", path: "configmaps", informer: typed.Core().V1().ConfigMaps().Informer()},
		{name: "dynamic", path: "configmaps", informer: dynamic.ForResource(maps).Informer()},
		{name: "metadata", path: "configmaps", informer: metadata.ForResource(maps).Informer()},
		{name: "dynamic, of a custom kind", path: "widgets", informer: dynamic.ForResource(widgets).Informer()},
		{name: "metadata, of a custom kind", path: "widgets", informer: metadata.ForResource(widgets).Informer()},
	}
	for n := range 20 {
		o := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("first-%d", n)}}
		if _, err := s.typed.CoreV1().ConfigMaps(namespace).Create(ctx, o, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	for _, f := range all {
		if err := f.listen(); err != nil {
			return err
		}
	}
	typed.Start(ctx.Done())
	dynamic.Start(ctx.Done())
	metadata.Start(ctx.Done())
	for _, f := range all {
		if !cache.WaitForCacheSync(ctx.Done(), f.informer.HasSynced) {
			return fmt.Errorf("%s: it does not get in step", f.name)
		}
	}
	// They began with streaming lists, each ended by its bookmark, and with no other list.
	exchanges, after := s.wire.since(before)
	streaming := 0
	for _, e := range exchanges {
		if e.method != "GET" || !(strings.HasSuffix(e.path, "/configmaps") || strings.HasSuffix(e.path, "/widgets")) {
			continue
		}
		if !e.isStreamingList() || !e.bookmarked || e.code != 200 {
			return fmt.Errorf("%s?%s: code %d, bookmark %t", e.path, e.query, e.code, e.bookmarked)
		}
		streaming++
	}
	if streaming != len(all) {
		return fmt.Errorf("%d streaming lists for %d informers", streaming, len(all))
	}

	var group sync.WaitGroup
	failures := make(chan error, writers+1)
	for writer := range writers {
		group.Add(1)
		go func() {
			defer group.Done()
			if err := s.disturb(ctx, writer); err != nil {
				failures <- err
			}
		}()
	}
	done := make(chan struct{})
	cuts := 0
	go func() { group.Wait(); close(done) }()
	for working := true; working; {
		select {
		case <-done:
			working = false
		case <-time.After(150 * time.Millisecond):
			cuts += s.wire.cut()
		}
	}
	select {
	case err := <-failures:
		return err
	default:
	}
	if cuts < len(all) {
		return fmt.Errorf("only %d watches were cut", cuts)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		difference := ""
		for _, f := range all {
			resource := maps
			if f.path == "widgets" {
				resource = widgets
			}
			list, err := s.dynamic.Resource(resource).Namespace(namespace).List(ctx, metav1.ListOptions{})
			if err != nil {
				return err
			}
			server := map[string]string{}
			for _, o := range list.Items {
				server[o.GetName()] = o.GetResourceVersion()
			}
			difference += f.difference(server)
		}
		if difference == "" {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s", difference)
		}
	}
	// A watch that is cut goes on where it was; only one that told nothing in its time begins anew.
	exchanges, _ = s.wire.since(after)
	resumed := 0
	for _, e := range exchanges {
		if e.isWatch() && e.code != 200 {
			return fmt.Errorf("after a cut: %s?%s, code %d", e.path, e.query, e.code)
		}
		if e.isWatch() && !e.isStreamingList() {
			resumed++
		}
	}
	if resumed < len(all) {
		return fmt.Errorf("of %d watches that were cut, %d went on", cuts, resumed)
	}
	return nil
}

// disturb creates, changes and deletes at random.
func (s *session) disturb(ctx context.Context, writer int) error {
	random := rand.New(rand.NewSource(int64(writer)))
	kinds := []struct {
		resource schema.GroupVersionResource
		sample   *unstructured.Unstructured
	}{
		{schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}, content("v1", "ConfigMap", nil)},
		{widgets, content("clients.example.com/v1", "Widget", nil)},
	}
	held := map[string]bool{}
	for change := range changes {
		kind := kinds[random.Intn(2)]
		client := s.dynamic.Resource(kind.resource).Namespace(namespace)
		name := fmt.Sprintf("w%d-%d", writer, random.Intn(12))
		id := kind.resource.Resource + name
		var err error
		switch {
		case !held[id]:
			_, err = client.Create(ctx, named(kind.sample, name), metav1.CreateOptions{})
			held[id] = true
		case random.Intn(3) == 0:
			err = client.Delete(ctx, name, metav1.DeleteOptions{})
			held[id] = false
		default:
			body := fmt.Sprintf(`{"metadata": {"annotations": {"change": "%d"}}}`, change)
			_, err = client.Patch(ctx, name, "application/merge-patch+json", []byte(body), metav1.PatchOptions{})
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		time.Sleep(time.Duration(random.Intn(10)) * time.Millisecond)
	}
	return nil
}

// retriedWatch is told every change once and in order though its connection is cut again and again.
func (s *session) retriedWatch(ctx context.Context) error {
	maps := s.typed.CoreV1().ConfigMaps(namespace)
	list, err := maps.List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	retried, err := watchtools.NewRetryWatcherWithContext(ctx, list.ResourceVersion, &cache.ListWatch{
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			return maps.Watch(ctx, options)
		},
	})
	if err != nil {
		return err
	}
	defer retried.Stop()
	var expected []string
	for n := range 60 {
		o := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("retried-%d", n)}}
		made, err := maps.Create(ctx, o, metav1.CreateOptions{})
		if err != nil {
			return err
		}
		expected = append(expected, "ADDED "+made.ResourceVersion)
		if n%20 == 10 {
			s.wire.cut()
		}
	}
	return told(retried, expected)
}
