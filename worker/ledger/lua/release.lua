-- release(sid, scope ...) -> 1 | 0 (nothing was promised)
-- p:<scope> hash; j stream
local gone = 0
for i = 2, #ARGV do gone = gone + redis.call('HDEL', promises_key(ARGV[i]), ARGV[1]) end
if gone > 0 then log('release', 'session', ARGV[1]) end
return gone > 0 and 1 or 0
