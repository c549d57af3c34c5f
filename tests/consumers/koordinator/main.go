// koordinator asks Koordinator's own LoadAwareScheduling plugin about one node: whether it lets a pod pass, and its score.
//
// Standard input: {"args": LoadAwareSchedulingArgs, "node": Node, "pods": [Pod], "nodeMetric": NodeMetric or null, "pod": Pod}.
// Standard output: {"refused": reason or "", "score": 0..100}.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	kubefake "k8s.io/client-go/kubernetes/fake"
	"k8s.io/kubernetes/pkg/scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/defaultbinder"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/queuesort"
	frameworkruntime "k8s.io/kubernetes/pkg/scheduler/framework/runtime"
	schedulertesting "k8s.io/kubernetes/pkg/scheduler/testing"

	slov1alpha1 "github.com/koordinator-sh/koordinator/apis/slo/v1alpha1"
	koordfake "github.com/koordinator-sh/koordinator/pkg/client/clientset/versioned/fake"
	koordinformers "github.com/koordinator-sh/koordinator/pkg/client/informers/externalversions"
	"github.com/koordinator-sh/koordinator/pkg/scheduler/apis/config"
	argsv1 "github.com/koordinator-sh/koordinator/pkg/scheduler/apis/config/v1"
	"github.com/koordinator-sh/koordinator/pkg/scheduler/frameworkext"
	"github.com/koordinator-sh/koordinator/pkg/scheduler/plugins/loadaware"
)

type question struct {
	Args       argsv1.LoadAwareSchedulingArgs `json:"args"`
	Node       corev1.Node                    `json:"node"`
	Pods       []corev1.Pod                   `json:"pods"`
	NodeMetric *slov1alpha1.NodeMetric        `json:"nodeMetric"`
	Pod        corev1.Pod                     `json:"pod"`
}

type answer struct {
	Refused string `json:"refused"`
	Score   int64  `json:"score"`
}

// oneNode is a cluster of one node.
type oneNode struct {
	framework.NodeInfoLister
	framework.StorageInfoLister
	info *framework.NodeInfo
}

func (c oneNode) NodeInfos() framework.NodeInfoLister       { return c }
func (c oneNode) StorageInfos() framework.StorageInfoLister { return c }
func (c oneNode) Get(string) (*framework.NodeInfo, error)   { return c.info, nil }
func (c oneNode) List() ([]*framework.NodeInfo, error)      { return []*framework.NodeInfo{c.info}, nil }

func main() {
	var asked question
	check(json.NewDecoder(os.Stdin).Decode(&asked))
	context_ := context.Background()

	argsv1.SetDefaults_LoadAwareSchedulingArgs(&asked.Args)
	var arguments config.LoadAwareSchedulingArgs
	check(argsv1.Convert_v1_LoadAwareSchedulingArgs_To_config_LoadAwareSchedulingArgs(&asked.Args, &arguments, nil))

	info := framework.NewNodeInfo()
	kubernetes := kubefake.NewSimpleClientset(&asked.Node)
	for each := range asked.Pods {
		pod := &asked.Pods[each]
		info.AddPod(pod)
		_, err := kubernetes.CoreV1().Pods(pod.Namespace).Create(context_, pod, metav1.CreateOptions{})
		check(err)
	}
	info.SetNode(&asked.Node)
	koordinator := koordfake.NewSimpleClientset()
	if asked.NodeMetric != nil {
		_, err := koordinator.SloV1alpha1().NodeMetrics().Create(context_, asked.NodeMetric, metav1.CreateOptions{})
		check(err)
	}

	informed := informers.NewSharedInformerFactory(kubernetes, 0)
	handle, err := schedulertesting.NewFramework(context_,
		[]schedulertesting.RegisterPluginFunc{
			schedulertesting.RegisterBindPlugin(defaultbinder.Name, defaultbinder.New),
			schedulertesting.RegisterQueueSortPlugin(queuesort.Name, queuesort.New),
		},
		"koord-scheduler",
		frameworkruntime.WithClientSet(kubernetes),
		frameworkruntime.WithInformerFactory(informed),
		frameworkruntime.WithSnapshotSharedLister(oneNode{info: info}),
	)
	check(err)
	koordinatorInformed := koordinformers.NewSharedInformerFactory(koordinator, 0)
	extender, err := frameworkext.NewFrameworkExtenderFactory(
		frameworkext.WithKoordinatorClientSet(koordinator),
		frameworkext.WithKoordinatorSharedInformerFactory(koordinatorInformed),
	)
	check(err)
	made, err := frameworkext.PluginFactoryProxy(extender, loadaware.New)(&arguments, handle)
	check(err)
	informed.Start(context_.Done())
	koordinatorInformed.Start(context_.Done())
	informed.WaitForCacheSync(context_.Done())
	koordinatorInformed.WaitForCacheSync(context_.Done())

	plugin := made.(*loadaware.Plugin)
	state := framework.NewCycleState()
	said := answer{}
	if status := plugin.Filter(context_, state, &asked.Pod, info); !status.IsSuccess() {
		said.Refused = status.Message()
	}
	score, status := plugin.Score(context_, state, &asked.Pod, asked.Node.Name)
	check(status.AsError())
	said.Score = score
	check(json.NewEncoder(os.Stdout).Encode(said))
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
