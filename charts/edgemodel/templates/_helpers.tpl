{{- define "edgemodel.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "edgemodel.fullname" -}}
{{- $name := include "edgemodel.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* The selector of one component: call with (dict "root" $ "component" "operator"). */}}
{{- define "edgemodel.selector" -}}
app.kubernetes.io/name: {{ include "edgemodel.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "edgemodel.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "edgemodel.selector" . }}
app.kubernetes.io/part-of: edgemodel
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end }}

{{/* An image: call with (list $ "operator"). */}}
{{- define "edgemodel.image" -}}
{{- $root := index . 0 }}
{{- $image := get $root.Values.images (index . 1) | default dict }}
{{- printf "%s/%s:%s" (default $root.Values.image.registry $image.registry) (default (index . 1) $image.repository) (coalesce $image.tag $root.Values.image.tag $root.Chart.AppVersion) }}
{{- end }}

{{- define "edgemodel.serviceAccountName" -}}
{{- default (ternary (include "edgemodel.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name }}
{{- end }}

{{- define "edgemodel.imagePullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Pod Security "restricted", twice: for the pod and for each container. */}}
{{- define "edgemodel.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "edgemodel.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* The store, as every part of the chart sees it: YAML with uri, endpoint, region, secret, podSecret. */}}
{{- define "edgemodel.store" -}}
{{- $store := .Values.objectStore }}
{{- $bucket := $store.bucket }}
{{- $endpoint := $store.endpoint }}
{{- if $store.embedded.enabled }}
  {{- $bucket = default "edgemodel" $bucket }}
  {{- $endpoint = printf "http://%s-store.%s.svc:7070" (include "edgemodel.fullname" .) .Release.Namespace }}
{{- end }}
{{- $made := or $store.embedded.enabled (not (empty $store.credentials.accessKeyId)) }}
{{- $secret := default (ternary $store.secretName "" $made) $store.existingSecret }}
bucket: {{ $bucket | quote }}
uri: {{ trimSuffix "/" (printf "s3://%s/%s" $bucket (trimAll "/" $store.prefix)) | quote }}
endpoint: {{ $endpoint | quote }}
region: {{ $store.region | quote }}
# In the operator's namespace; empty: the pod's own identity.
secret: {{ $secret | quote }}
# In the namespaces of EdgeModels.
podSecret: {{ ternary $store.secretName "" (not (empty $secret)) | quote }}
# Whether the chart makes the Secrets.
made: {{ and $made (empty $store.existingSecret) }}
{{- end }}

{{/* Environment of a container of ours that reaches the store. */}}
{{- define "edgemodel.storeEnv" -}}
{{- $store := include "edgemodel.store" . | fromYaml }}
- name: EDGEMODEL_STORE_URI
  value: {{ $store.uri | quote }}
{{- with $store.endpoint }}
- name: EDGEMODEL_STORE_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- with $store.region }}
- name: EDGEMODEL_STORE_REGION
  value: {{ . | quote }}
{{- end }}
{{- if $store.secret }}
- name: EDGEMODEL_STORE_CREDENTIALS
  value: /var/run/edgemodel/store
{{- end }}
{{- end }}

{{/* The store's keys, as YAML. Made at random once: afterwards they are read back from the Secret, or, while one rendering
     goes on, from the values, so that all copies are the same. */}}
{{- define "edgemodel.storeKeys" -}}
{{- $store := .Values.objectStore }}
{{- if not $store.credentials.accessKeyId }}
  {{- $found := (lookup "v1" "Secret" .Release.Namespace $store.secretName).data | default dict }}
  {{- if and $found.AWS_ACCESS_KEY_ID $found.AWS_SECRET_ACCESS_KEY }}
    {{- $_ := set $store "credentials" (dict "accessKeyId" (b64dec $found.AWS_ACCESS_KEY_ID) "secretAccessKey" (b64dec $found.AWS_SECRET_ACCESS_KEY)) }}
  {{- else }}
    {{- $_ := set $store "credentials" (dict "accessKeyId" (randAlphaNum 20 | upper) "secretAccessKey" (randAlphaNum 40)) }}
  {{- end }}
{{- end }}
AWS_ACCESS_KEY_ID: {{ $store.credentials.accessKeyId | quote }}
AWS_SECRET_ACCESS_KEY: {{ $store.credentials.secretAccessKey | quote }}
{{- end }}

{{/* Changes when the keys do, so that pods restart with the new ones. */}}
{{- define "edgemodel.storeChecksum" -}}
{{- $store := include "edgemodel.store" . | fromYaml }}
{{- if $store.made }}
{{- include "edgemodel.storeKeys" . | sha256sum }}
{{- else }}
{{- $store | toJson | sha256sum }}
{{- end }}
{{- end }}

{{/* What the values cannot mean. Each message says what to set. */}}
{{- define "edgemodel.validate" -}}
{{- $store := .Values.objectStore }}
{{- if not (or $store.bucket $store.embedded.enabled) }}
  {{- fail "\n\nEdgeModel keeps its artifacts in an S3 bucket, and none is named. Either\n  --set objectStore.bucket=NAME              (with objectStore.endpoint where it is not AWS), or\n  --set objectStore.embedded.enabled=true    (a small store comes along; good for a first look)\n" }}
{{- end }}
{{- if and $store.embedded.enabled $store.endpoint }}
  {{- fail "\n\nobjectStore.endpoint and objectStore.embedded.enabled exclude each other: the embedded store has an address of its own. Unset one.\n" }}
{{- end }}
{{- if ne (empty $store.credentials.accessKeyId) (empty $store.credentials.secretAccessKey) }}
  {{- fail "\n\nobjectStore.credentials needs both accessKeyId and secretAccessKey, or neither.\n" }}
{{- end }}
{{- if and $store.existingSecret $store.credentials.accessKeyId }}
  {{- fail "\n\nobjectStore.existingSecret and objectStore.credentials exclude each other: unset one.\n" }}
{{- end }}
{{- $made := (include "edgemodel.store" . | fromYaml).made }}
{{- $account := .Values.modelPods.serviceAccount }}
{{- if and $store.namespaces (not $made) (not $account.create) }}
  {{- if $store.existingSecret }}
    {{- fail (printf "\n\nobjectStore.namespaces: the chart cannot copy the Secret %q, whose content it does not know. Create the Secret %q in each of these namespaces yourself and leave objectStore.namespaces empty, or give objectStore.credentials.\n" $store.existingSecret $store.secretName) }}
  {{- end }}
  {{- fail "\n\nobjectStore.namespaces has nothing to put into them: give objectStore.credentials, objectStore.embedded.enabled=true or modelPods.serviceAccount.create=true; or leave it empty.\n" }}
{{- end }}
{{- if and $account.create (not (and $account.name $store.namespaces)) }}
  {{- fail "\n\nmodelPods.serviceAccount.create needs modelPods.serviceAccount.name, and in objectStore.namespaces where to create it.\n" }}
{{- end }}
{{- end }}
