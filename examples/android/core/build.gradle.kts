plugins {
    `java-library`
}

java {
    sourceCompatibility = JavaVersion.VERSION_11
    targetCompatibility = JavaVersion.VERSION_11
}

dependencies {
    compileOnly(libs.json) // Android has it
    testImplementation(libs.json)
    testImplementation(libs.junit)
}

// ./gradlew :core:test -Pedge.fixtures=FOLDER, where tests/test_android.py wrote its numbers
tasks.test {
    systemProperty("edge.fixtures", providers.gradleProperty("edge.fixtures").getOrElse(""))
}
