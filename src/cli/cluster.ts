/**
 * The cluster as commands see it: a few verbs on API paths, and programs run in pods. Refusals and silence of the API
 * server are thrown as `MESH_API_REFUSED` and `MESH_API_UNREACHABLE`; what is not there is a value.
 */

export interface PodRef {
  readonly namespace: string;
  readonly name: string;
  readonly container: string;
}

export interface ExecOutcome {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

export type Query = Readonly<Record<string, string>>;

export interface Cluster {
  /** Name of the kubeconfig's context. */
  readonly context: string;
  /** The namespace that counts when none is given. */
  readonly namespace: string;
  /** Undefined when there is no such object, or no such kind. */
  get(path: string): Promise<unknown>;
  /** All items, page by page; undefined when this cluster has no such kind. */
  list(path: string, query?: Query): Promise<readonly unknown[] | undefined>;
  /** A POST; answers what was made, e.g. a review with its status. */
  create(path: string, body: unknown): Promise<unknown>;
  /** Server-side apply in the name of meshctl; takes over fields that others set. */
  apply(path: string, body: unknown): Promise<unknown>;
  /** JSON merge patch. */
  merge(path: string, body: unknown): Promise<unknown>;
  /** False when it was not there. */
  remove(path: string): Promise<boolean>;
  /** Runs a program in a pod to its end. */
  exec(pod: PodRef, command: readonly string[]): Promise<ExecOutcome>;
}
