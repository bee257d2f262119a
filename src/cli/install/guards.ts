/**
 * What keeps the installation itself safe: NetworkPolicies for our own pods, and admission policies (CEL, in the API
 * server; there are no webhooks) for the labels that enrol.
 */

import { metadata, NAMESPACE, selectorLabels, type KubeObject } from './kube-object.ts';
import { CONTROLLER_PORT } from './controller.ts';
import type { InstallValues } from './values.ts';

const METRICS = { port: 15020, protocol: 'TCP' } as const;
const READINESS = { port: 15021, protocol: 'TCP' } as const;

function networkPolicies(version: string): KubeObject[] {
  return [
    {
      apiVersion: 'networking.k8s.io/v1',
      kind: 'NetworkPolicy',
      metadata: metadata('nodemesh-controller', 'controller', version),
      spec: {
        podSelector: { matchLabels: selectorLabels('controller') },
        // Its way out stays open: where the API server is, no selector can say.
        policyTypes: ['Ingress'],
        ingress: [
          {
            // Node proxies, and waypoints of every namespace; who they are, TLS and their tokens say.
            from: [{ namespaceSelector: {} }],
            ports: [{ port: CONTROLLER_PORT, protocol: 'TCP' }],
          },
          { ports: [METRICS, READINESS] },
        ],
      },
    },
    {
      apiVersion: 'networking.k8s.io/v1',
      kind: 'NetworkPolicy',
      metadata: metadata('nodemesh-node', 'node', version),
      spec: {
        // Users' traffic never passes here: it is dialled from inside their own pods.
        podSelector: { matchLabels: selectorLabels('node') },
        policyTypes: ['Ingress', 'Egress'],
        ingress: [{ ports: [METRICS, READINESS] }],
        egress: [
          {
            to: [{ podSelector: { matchLabels: selectorLabels('controller') } }],
            ports: [{ port: CONTROLLER_PORT, protocol: 'TCP' }],
          },
          // To wherever DNS is, a cache on the node included.
          {
            ports: [
              { port: 53, protocol: 'UDP' },
              { port: 53, protocol: 'TCP' },
            ],
          },
        ],
      },
    },
  ];
}

const ENROL = 'nodemesh.dev/mesh';
const VALUE_IS_KNOWN = `!has(object.metadata.labels) || !('${ENROL}' in object.metadata.labels) || object.metadata.labels['${ENROL}'] in ['enabled', 'disabled']`;
const VALUE_MESSAGE = `"the label ${ENROL} must be enabled or disabled, not '" + object.metadata.labels['${ENROL}'] + "'"`;
/** Enrolling them would make the mesh carry what it needs in order to run. */
export const NEVER_ENROLLED: readonly string[] = ['kube-system', NAMESPACE];

interface Validation {
  readonly expression: string;
  readonly messageExpression?: string;
  readonly message?: string;
  readonly reason: 'Invalid' | 'Forbidden';
}

function admission(
  version: string,
  name: string,
  resource: string,
  validations: readonly Validation[],
): KubeObject[] {
  const api = 'admissionregistration.k8s.io/v1';
  return [
    {
      apiVersion: api,
      kind: 'ValidatingAdmissionPolicy',
      metadata: metadata(name, 'mesh', version, 'cluster'),
      spec: {
        failurePolicy: 'Fail',
        matchConstraints: {
          resourceRules: [
            {
              apiGroups: [''],
              apiVersions: ['v1'],
              operations: ['CREATE', 'UPDATE'],
              resources: [resource],
            },
          ],
          // Nothing without the label is looked at.
          objectSelector: { matchExpressions: [{ key: ENROL, operator: 'Exists' }] },
        },
        validations,
      },
    },
    {
      apiVersion: api,
      kind: 'ValidatingAdmissionPolicyBinding',
      metadata: metadata(name, 'mesh', version, 'cluster'),
      spec: { policyName: name, validationActions: ['Deny'] },
    },
  ];
}

function admissionPolicies(version: string): KubeObject[] {
  const value: Validation = {
    expression: VALUE_IS_KNOWN,
    messageExpression: VALUE_MESSAGE,
    reason: 'Invalid',
  };
  const never = NEVER_ENROLLED.map((name) => `'${name}'`).join(', ');
  return [
    ...admission(version, 'nodemesh-enrol-namespace', 'namespaces', [
      value,
      {
        expression: `!(object.metadata.name in [${never}]) || !has(object.metadata.labels) || !('${ENROL}' in object.metadata.labels) || object.metadata.labels['${ENROL}'] != 'enabled'`,
        messageExpression: `"namespace " + object.metadata.name + " cannot be in the mesh: the mesh needs it in order to run"`,
        reason: 'Forbidden',
      },
    ]),
    ...admission(version, 'nodemesh-enrol-pod', 'pods', [value]),
  ];
}

export function guardObjects(values: InstallValues, version: string): KubeObject[] {
  return [
    ...admissionPolicies(version),
    ...(values.networkPolicies.enabled ? networkPolicies(version) : []),
  ];
}
