/** Manifests of a node that is not ours, and of pods on it that speak HBONE by themselves. */

export const FOREIGN_NODE = 'node-c';

export interface ForeignPod {
  readonly name: string;
  /** Last part of its address; its network hangs on node-a, whatever its manifest says. */
  readonly host: number;
  /** What tells the controller that it takes tunnels. */
  readonly marker: 'annotation' | 'label';
}

export function foreignManifest(pods: readonly ForeignPod[]): string {
  const node = `apiVersion: v1
kind: Node
metadata:
  name: ${FOREIGN_NODE}
  labels: { topology.kubernetes.io/region: local, topology.kubernetes.io/zone: zone-c }
status:
  addresses: [{ type: InternalIP, address: 172.31.0.13 }]
`;
  const documents = pods.map(({ name, host, marker }) => {
    const label = marker === 'label' ? ', networking.istio.io/tunnel: http' : '';
    const annotations =
      marker === 'annotation' ? '{ ambient.istio.io/redirection: enabled }' : '{}';
    return `apiVersion: v1
kind: Pod
metadata:
  name: ${name}
  namespace: shop
  uid: 00000000-0000-4000-8000-0000000001${String(host).padStart(2, '0')}
  labels: { app: ${name}, version: v9${label} }
  annotations: ${annotations}
spec:
  nodeName: ${FOREIGN_NODE}
  serviceAccountName: ${name}
  containers:
    - name: app
      image: demo
      ports: [{ containerPort: 8080 }]
status:
  phase: Running
  podIP: 10.42.1.${host}
  podIPs: [{ ip: 10.42.1.${host} }, { ip: 'fd42:1::${host.toString(16)}' }]
  conditions: [{ type: Ready, status: 'True' }]
---
apiVersion: v1
kind: Service
metadata:
  name: ${name}
  namespace: shop
spec:
  clusterIPs: [10.96.1.${host}]
  selector: { app: ${name} }
  ports: [{ name: tcp, port: 80, targetPort: 8080, protocol: TCP }]
`;
  });
  return [node, ...documents].join('---\n');
}
