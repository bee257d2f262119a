/** Simulated nodes, pods and services, as the API server takes them: nobody runs them. */

export type Json = Record<string, unknown>;

export interface ScaleSize {
  readonly pods: number;
  readonly services: number;
  readonly nodes: number;
}

export interface SimulatedPod {
  readonly namespace: string;
  readonly name: string;
  readonly node: string;
  readonly ip: string;
}

const NAMESPACES = 20;
const CONTAINER_BYTES = 2_000;

export function namespaceNames(): string[] {
  return Array.from({ length: NAMESPACES }, (_, i) => `app-${i}`);
}

export function nodeName(index: number): string {
  return `sim-${index}`;
}

/** The `index`th pod ever made: names and addresses are never used twice. */
export function simulatedPod(index: number, { nodes, services }: ScaleSize): SimulatedPod {
  const service = index % services;
  return {
    namespace: `app-${service % NAMESPACES}`,
    name: `svc-${service}-${index}`,
    node: nodeName(index % nodes),
    ip: `10.${128 + (index >> 16)}.${(index >> 8) & 255}.${index & 255}`,
  };
}

export function podObject({ namespace, name, node }: SimulatedPod): Json {
  const service = name.split('-')[1] ?? '';
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: {
      namespace,
      name,
      labels: {
        app: `svc-${service}`,
        'pod-template-hash': 'abc123',
        'app.kubernetes.io/name': `svc-${service}`,
        'service.istio.io/canonical-revision': 'r0',
      },
    },
    spec: {
      nodeName: node,
      terminationGracePeriodSeconds: 0,
      containers: [
        {
          name: 'main',
          image: 'nodemesh.test/none:1',
          ports: [{ name: 'http', containerPort: 8080 }],
          readinessProbe: { httpGet: { path: '/', port: 'http' } },
          // As large as pods are; none of it may stay in the controller.
          env: [{ name: 'LARGE', value: 'x'.repeat(CONTAINER_BYTES) }],
        },
      ],
    },
  };
}

export function runningStatus(ip: string): Json {
  return {
    status: {
      phase: 'Running',
      podIP: ip,
      podIPs: [{ ip }],
      conditions: [{ type: 'Ready', status: 'True' }],
    },
  };
}

export function serviceObject(index: number): Json {
  return {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: { namespace: `app-${index % NAMESPACES}`, name: `svc-${index}` },
    spec: {
      selector: { app: `svc-${index}` },
      ports: [{ name: 'http', port: 80, targetPort: 'http' }],
    },
  };
}

export function sliceObject(index: number, pods: readonly SimulatedPod[]): Json {
  return {
    apiVersion: 'discovery.k8s.io/v1',
    kind: 'EndpointSlice',
    metadata: {
      namespace: `app-${index % NAMESPACES}`,
      name: `svc-${index}-x`,
      labels: { 'kubernetes.io/service-name': `svc-${index}` },
    },
    addressType: 'IPv4',
    ports: [{ name: 'http', port: 8080, protocol: 'TCP' }],
    endpoints: pods.map(({ ip, node, name, namespace }) => ({
      addresses: [ip],
      nodeName: node,
      conditions: { ready: true },
      targetRef: { kind: 'Pod', name, namespace },
    })),
  };
}

export function nodeObject(index: number): Json {
  return {
    apiVersion: 'v1',
    kind: 'Node',
    metadata: {
      name: nodeName(index),
      labels: {
        'topology.kubernetes.io/region': 'r1',
        'topology.kubernetes.io/zone': `z${index % 3}`,
      },
    },
  };
}
