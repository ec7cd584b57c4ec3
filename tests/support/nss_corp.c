/* A directory for tests, as an NSS module (nsswitch.conf: `passwd: files corp`): knows its users in any case, by short form
 * and as CORP\name, and calls them name@corp.example; all are in "domain users@corp.example". While the file that
 * NSS_CORP_DOWN names is there, it is down. See "Name Service Switch" in the glibc manual. */
#include <errno.h>
#include <grp.h>
#include <nss.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#define REALM "corp.example"
#define GROUP "domain users@corp.example"
#define GID 70100

static const char *const users[] = {"joe", "ann", "late"};

static int is_down(void)
{
	const char *path = getenv("NSS_CORP_DOWN");

	return path && access(path, F_OK) == 0;
}

static enum nss_status fill(unsigned int number, struct passwd *entry, char *buffer, size_t size, int *error)
{
	int length = snprintf(buffer, size, "%s@" REALM, users[number]);

	if (length < 0 || (size_t)length >= size) {
		*error = ERANGE;
		return NSS_STATUS_TRYAGAIN;
	}
	entry->pw_name = buffer;
	entry->pw_passwd = entry->pw_gecos = entry->pw_dir = entry->pw_shell = "";
	entry->pw_uid = 70001 + number;
	entry->pw_gid = GID;
	return NSS_STATUS_SUCCESS;
}

enum nss_status _nss_corp_getpwnam_r(const char *name, struct passwd *entry, char *buffer, size_t size, int *error)
{
	char form[3][64];

	if (is_down()) {
		*error = EAGAIN;
		return NSS_STATUS_UNAVAIL;
	}
	for (unsigned int i = 0; i < sizeof(users) / sizeof(*users); i++) {
		snprintf(form[0], sizeof(form[0]), "%s", users[i]);
		snprintf(form[1], sizeof(form[1]), "CORP\\%s", users[i]);
		snprintf(form[2], sizeof(form[2]), "%s@" REALM, users[i]);
		for (int f = 0; f < 3; f++)
			if (strcasecmp(name, form[f]) == 0)
				return fill(i, entry, buffer, size, error);
	}
	return NSS_STATUS_NOTFOUND;
}

enum nss_status _nss_corp_getpwuid_r(uid_t uid, struct passwd *entry, char *buffer, size_t size, int *error)
{
	if (is_down()) {
		*error = EAGAIN;
		return NSS_STATUS_UNAVAIL;
	}
	if (uid < 70001 || uid > 70003)
		return NSS_STATUS_NOTFOUND;
	return fill(uid - 70001, entry, buffer, size, error);
}

static enum nss_status fill_group(struct group *entry, char *buffer, size_t size, int *error)
{
	static char *nobody[] = {NULL};

	if (size < sizeof(GROUP)) {
		*error = ERANGE;
		return NSS_STATUS_TRYAGAIN;
	}
	entry->gr_name = strcpy(buffer, GROUP);
	entry->gr_passwd = "";
	entry->gr_gid = GID;
	entry->gr_mem = nobody;
	return NSS_STATUS_SUCCESS;
}

enum nss_status _nss_corp_getgrgid_r(gid_t gid, struct group *entry, char *buffer, size_t size, int *error)
{
	return gid == GID ? fill_group(entry, buffer, size, error) : NSS_STATUS_NOTFOUND;
}

enum nss_status _nss_corp_getgrnam_r(const char *name, struct group *entry, char *buffer, size_t size, int *error)
{
	if (strcasecmp(name, GROUP) && strcasecmp(name, "domain users"))
		return NSS_STATUS_NOTFOUND;
	return fill_group(entry, buffer, size, error);
}
