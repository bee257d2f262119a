/**
 * Label selectors and the two indexes that make one change cheap: from a selector to the pods it selects, and
 * from a pod to the selectors that select it. Both file their entries under one `key=value` pair, so a lookup
 * touches candidates, never the whole cluster.
 */

import { addTo, removeFrom } from './multi-map.ts';
import type { Labels, LabelSelector, SelectorTerm } from './objects.ts';

export const EVERYTHING: LabelSelector = { matchLabels: new Map(), terms: [] };

function termMatches(term: SelectorTerm, labels: Labels): boolean {
  const value = labels.get(term.key);
  switch (term.operator) {
    case 'In':
      return value !== undefined && term.values.includes(value);
    case 'NotIn':
      return value === undefined || !term.values.includes(value);
    case 'Exists':
      return value !== undefined;
    case 'DoesNotExist':
      return value === undefined;
  }
}

export function selectorMatches(selector: LabelSelector, labels: Labels): boolean {
  for (const [key, value] of selector.matchLabels) {
    if (labels.get(key) !== value) return false;
  }
  return selector.terms.every((term) => termMatches(term, labels));
}

/** A label key cannot contain `=`, so the pair is unambiguous. */
function pair(key: string, value: string): string {
  return `${key}=${value}`;
}

function bucketOf(selector: LabelSelector): string {
  for (const [key, value] of selector.matchLabels) return pair(key, value);
  return '';
}

/** From a pod's namespace and labels to the items whose selector takes it. The namespace `''` is all. */
export interface SelectorIndex<T> {
  add(namespace: string, selector: LabelSelector, item: T): void;
  /** Takes the same arguments as the `add` it undoes. */
  remove(namespace: string, selector: LabelSelector, item: T): void;
  /** Items of this namespace and of all namespaces; in no particular order. */
  match(namespace: string, labels: Labels): T[];
}

interface Entry<T> {
  readonly selector: LabelSelector;
  readonly item: T;
}

export function createSelectorIndex<T>(): SelectorIndex<T> {
  const namespaces = new Map<string, Map<string, Map<T, Entry<T>>>>();
  const collect = (namespace: string, labels: Labels, found: T[]): void => {
    const buckets = namespaces.get(namespace);
    if (buckets === undefined) return;
    const scan = (bucket: string): void => {
      for (const entry of buckets.get(bucket)?.values() ?? []) {
        if (selectorMatches(entry.selector, labels)) found.push(entry.item);
      }
    };
    scan('');
    for (const [key, value] of labels) scan(pair(key, value));
  };
  return {
    add(namespace, selector, item) {
      let buckets = namespaces.get(namespace);
      if (buckets === undefined) namespaces.set(namespace, (buckets = new Map()));
      const bucket = bucketOf(selector);
      const entries = buckets.get(bucket);
      if (entries === undefined) buckets.set(bucket, new Map([[item, { selector, item }]]));
      else entries.set(item, { selector, item });
    },
    remove(namespace, selector, item) {
      const buckets = namespaces.get(namespace);
      const bucket = bucketOf(selector);
      const entries = buckets?.get(bucket);
      if (entries?.delete(item) !== true) return;
      if (entries.size === 0) buckets?.delete(bucket);
      if (buckets?.size === 0) namespaces.delete(namespace);
    },
    match(namespace, labels) {
      const found: T[] = [];
      collect(namespace, labels, found);
      if (namespace !== '') collect('', labels, found);
      return found;
    },
  };
}

/** What a labelled item must show to be filed. */
export interface Labelled {
  readonly namespace: string;
  readonly labels: Labels;
}

/** From a selector to the items it selects. */
export interface LabelIndex<T> {
  add(at: Labelled, item: T): void;
  /** Takes the same labels as the `add` it undoes. */
  remove(at: Labelled, item: T): void;
  /** All items of a namespace; `''` means of every namespace. */
  inNamespace(namespace: string): Iterable<T>;
  /** Candidates in a namespace (`''`: in all): a superset; the caller checks the selector itself. */
  candidates(namespace: string, selector: LabelSelector): Iterable<T>;
}

export function createLabelIndex<T>(): LabelIndex<T> {
  const byNamespace = new Map<string, Set<T>>();
  const byPair = new Map<string, Map<string, Set<T>>>();
  const none: readonly T[] = [];
  const inNamespace = function* (namespace: string): Iterable<T> {
    if (namespace !== '') yield* byNamespace.get(namespace) ?? none;
    else for (const items of byNamespace.values()) yield* items;
  };
  const narrowest = (namespace: string, selector: LabelSelector): Iterable<T> => {
    const pairs = byPair.get(namespace);
    let best: Set<T> | undefined;
    for (const [key, value] of selector.matchLabels) {
      const items = pairs?.get(pair(key, value));
      if (items === undefined) return none;
      if (best === undefined || items.size < best.size) best = items;
    }
    return best ?? inNamespace(namespace);
  };
  return {
    add({ namespace, labels }, item) {
      addTo(byNamespace, namespace, item);
      let pairs = byPair.get(namespace);
      if (pairs === undefined) byPair.set(namespace, (pairs = new Map()));
      for (const [key, value] of labels) addTo(pairs, pair(key, value), item);
    },
    remove({ namespace, labels }, item) {
      removeFrom(byNamespace, namespace, item);
      const pairs = byPair.get(namespace);
      if (pairs === undefined) return;
      for (const [key, value] of labels) removeFrom(pairs, pair(key, value), item);
      if (pairs.size === 0) byPair.delete(namespace);
    },
    inNamespace,
    *candidates(namespace, selector) {
      if (namespace !== '') yield* narrowest(namespace, selector);
      else for (const name of byNamespace.keys()) yield* narrowest(name, selector);
    },
  };
}
