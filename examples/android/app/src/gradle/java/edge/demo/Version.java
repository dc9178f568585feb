package edge.demo;

/** Set by the build. */
final class Version {
    static final String NAME = BuildConfig.VERSION_NAME;

    private Version() {}
}
