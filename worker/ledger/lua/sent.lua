-- sent(rid, token) -> {'ok'} | {'killed', scope} | {'used', state, scope}; state is `unknown` where there is none
-- r:<rid> hash: state, token; j stream
-- One caller is told to go ahead, once. The token tells its own repeat (the reply was lost) from
-- a second caller, so that no two requests go out under one reservation.
local rid = ARGV[1]
local R = reservation_key(rid)
local r = redis.call('HMGET', R, 'state', 'token', 'scopes')
local scope = r[3] and string.match(r[3], '^%S+') or ''
if r[1] == 'sent' and r[2] == ARGV[2] then return {'ok'} end
if r[1] ~= 'held' then return {'used', r[1] or 'unknown', scope} end
if killed() then return {'killed', scope} end
redis.call('HSET', R, 'state', 'sent', 'token', ARGV[2])
log('sent', 'id', rid)
return {'ok'}
