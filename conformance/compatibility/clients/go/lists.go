package main

import (
	"context"
	"fmt"
	"sort"
	"strings"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/scale"
	"k8s.io/client-go/tools/pager"
)

// names of all that discovery tells, in one order.
func names(all []metav1.APIResource) string {
	var out []string
	for _, r := range all {
		sort.Strings(r.Verbs)
		out = append(out, fmt.Sprintf("%s/%s/%s %s %t %v %v", r.Group, r.Version, r.Name, r.Kind, r.Namespaced, r.Verbs, r.ShortNames))
	}
	sort.Strings(out)
	return strings.Join(out, "\n")
}

func flat(lists []*metav1.APIResourceList) (all []metav1.APIResource) {
	for _, list := range lists {
		gv, _ := schema.ParseGroupVersion(list.GroupVersion)
		for _, r := range list.APIResources {
			// Those of subresources are kinds of other groups.
			if r.Group == "" && r.Version == "" {
				r.Group, r.Version = gv.Group, gv.Version
			}
			r.Name = list.GroupVersion + "/" + r.Name
			all = append(all, r)
		}
	}
	return all
}

// pages walks a list in pages, which is of one moment even if objects come and go meanwhile.
func (s *session) pages(ctx context.Context) error {
	maps := s.typed.CoreV1().ConfigMaps(namespace)
	const count, limit = 25, 10
	for n := range count {
		o := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("page-%02d", n), Labels: map[string]string{"pages": "yes"}}}
		if _, err := maps.Create(ctx, o, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	var found []string
	version := ""
	options := metav1.ListOptions{LabelSelector: "pages=yes", Limit: limit}
	for page := 0; ; page++ {
		list, err := maps.List(ctx, options)
		if err != nil {
			return err
		}
		if version == "" {
			version = list.ResourceVersion
		}
		if list.ResourceVersion != version {
			return fmt.Errorf("page %d is of %s, not of %s", page, list.ResourceVersion, version)
		}
		for _, o := range list.Items {
			found = append(found, o.Name)
		}
		if list.Continue == "" {
			break
		}
		options.Continue = list.Continue
		if err := maps.Delete(ctx, fmt.Sprintf("page-%02d", count-1-page), metav1.DeleteOptions{}); err != nil {
			return err
		}
	}
	if len(found) != count || !sort.StringsAreSorted(found) {
		return fmt.Errorf("the pages have %v", found)
	}
	each := 0
	p := pager.New(pager.SimplePageFunc(func(o metav1.ListOptions) (runtime.Object, error) { return maps.List(ctx, o) }))
	p.PageSize = 4
	err := p.EachListItem(ctx, metav1.ListOptions{LabelSelector: "pages=yes"}, func(runtime.Object) error { each++; return nil })
	if err != nil || each != count-2 {
		return fmt.Errorf("a pager found %d: %w", each, err)
	}
	whole, err := maps.List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil || whole.RemainingItemCount == nil || *whole.RemainingItemCount < count-3 {
		return fmt.Errorf("%v remain: %w", whole.RemainingItemCount, err)
	}
	return maps.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "pages=yes"})
}

// scale scales all that can be scaled with the client that knows none of them.
func (s *session) scale(ctx context.Context) error {
	scales, err := scale.NewForConfig(s.config, s.mapper, dynamic.LegacyAPIPathResolverFunc, scale.NewDiscoveryScaleKindResolver(s.typed.Discovery()))
	if err != nil {
		return err
	}
	for _, resource := range []schema.GroupResource{
		{Group: "apps", Resource: "deployments"}, {Group: "apps", Resource: "replicasets"}, {Group: "apps", Resource: "statefulsets"}, {Resource: "replicationcontrollers"},
	} {
		if err := s.createScalable(ctx, resource); err != nil {
			return fmt.Errorf("%v: %w", resource, err)
		}
		client := scales.Scales(namespace)
		found, err := client.Get(ctx, resource, "scaled", metav1.GetOptions{})
		if err != nil || found.Spec.Replicas != 1 || found.Status.Selector != "a=b" {
			return fmt.Errorf("%v: %v, %w", resource, found, err)
		}
		found.Spec.Replicas = 3
		if found, err = client.Update(ctx, resource, found, metav1.UpdateOptions{}); err != nil || found.Spec.Replicas != 3 {
			return fmt.Errorf("%v, update: %v, %w", resource, found, err)
		}
		gvr, err := s.mapper.ResourceFor(resource.WithVersion(""))
		if err != nil {
			return err
		}
		patched, err := client.Patch(ctx, gvr, "scaled", types.MergePatchType, []byte(`{"spec": {"replicas": 5}}`), metav1.PatchOptions{})
		if err != nil || patched.Spec.Replicas != 5 {
			return fmt.Errorf("%v, patch: %v, %w", resource, patched, err)
		}
	}
	typed, err := s.typed.AppsV1().Deployments(namespace).UpdateScale(ctx, "scaled", &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{Name: "scaled", Namespace: namespace}, Spec: autoscalingv1.ScaleSpec{Replicas: 7}}, metav1.UpdateOptions{})
	if err != nil || typed.Spec.Replicas != 7 {
		return fmt.Errorf("a typed scale: %v, %w", typed, err)
	}
	return nil
}
