/** Where an object lives in the API. */

import type { KubeObject } from './install/kube-object.ts';

/** Plural names of the kinds that are no plain `lower case + s`. */
const PLURALS: Readonly<Record<string, string>> = {
  NetworkPolicy: 'networkpolicies',
  ValidatingAdmissionPolicy: 'validatingadmissionpolicies',
};

/** Path of the object itself. */
export function pathOf({ apiVersion, kind, metadata }: KubeObject): string {
  const base = apiVersion.includes('/') ? `/apis/${apiVersion}` : `/api/${apiVersion}`;
  const scope = metadata.namespace === undefined ? '' : `/namespaces/${metadata.namespace}`;
  return `${base}${scope}/${PLURALS[kind] ?? `${kind.toLowerCase()}s`}/${metadata.name}`;
}
