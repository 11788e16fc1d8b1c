// Stands for zarrita, NiiVue's reader of chunked volumes from the network: two thirds of the bundle, and the pages have no network.
const none = () => {
  throw new Error("zarr is not part of this bundle");
};
export { none as FetchStore, none as get, none as open, none as registry, none as root, none as slice };
