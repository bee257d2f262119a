/**
 * What is published to one waypoint only: by waypoint, then by the resource's name. A waypoint is named by its
 * Gateway, and its processes run under the service account of the same name: that is how a caller is known to
 * be one of them.
 */

/** `namespace/name` of the Gateway, and of the service account. */
export type WaypointName = string & { readonly __brand: 'WaypointName' };

export function waypointName(namespace: string, name: string): WaypointName {
  return `${namespace}/${name}` as WaypointName;
}

/** Of anything named `namespace/name`. */
export function splitName(path: string): [namespace: string, name: string] {
  const slash = path.indexOf('/');
  return [path.slice(0, slash), path.slice(slash + 1)];
}

/** Undefined as a value: no longer there. */
export type Scoped<T> = Map<WaypointName, Map<string, T | undefined>>;

export function setScoped<T>(
  scoped: Scoped<T>,
  waypoint: WaypointName,
  name: string,
  value: T | undefined,
): void {
  const known = scoped.get(waypoint);
  if (known === undefined) scoped.set(waypoint, new Map([[name, value]]));
  else known.set(name, value);
}
