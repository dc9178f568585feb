plugins {
    alias(libs.plugins.android.application)
}

val edgeVersion = Regex("__version__ = \"(.*)\"").find(file("../../../edge/_version.py").readText())!!.groupValues[1]

android {
    namespace = "edge.demo"
    compileSdk = 36

    defaultConfig {
        applicationId = "edge.demo"
        minSdk = 26
        targetSdk = 36
        versionCode = 1
        versionName = edgeVersion
        ndk { abiFilters += listOf("arm64-v8a", "x86_64") }
    }

    buildFeatures { buildConfig = true }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_11
        targetCompatibility = JavaVersion.VERSION_11
    }

    // What `make pack` laid out: bundles and their programs.
    sourceSets.getByName("main") {
        java.srcDir("src/gradle/java")
        assets.srcDir("../build/pack/assets")
        jniLibs.srcDir("../build/pack/lib")
    }

    // Programs are unpacked when the app is installed, since only then can they be started; they are stripped already.
    packaging {
        jniLibs {
            useLegacyPackaging = true
            keepDebugSymbols += "**/libedge-*.so"
        }
    }
}

dependencies {
    implementation(project(":core"))
    implementation(libs.executorch)
}
